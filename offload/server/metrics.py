"""Prometheus metrics and health over HTTP, on a port and in a thread of their own.

GET /metrics, /v2/health/live, /v2/health/ready (the protocol's REST names): 200, or 503 while not ready.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from offload.server.account import BUCKETS_S, Durations
from offload.server.engine import Engine
from tercel.core.errors import UserError, require


class EngineCollector:
    """What prometheus_client collects of an engine, read when it is asked. Each request is in one outcome."""

    def __init__(self, engine: Engine, problems: Callable[[], Mapping[str, str]] = dict) -> None:
        self._engine = engine
        self._problems = problems
        self._core = require("prometheus_client.core", extra="offload")

    def collect(self) -> Iterator[Any]:
        """Metric families."""
        counter, gauge = self._core.CounterMetricFamily, self._core.GaugeMetricFamily
        received = counter("tercel_requests_received", "Requests of a model", labels=["model"])
        ended = counter("tercel_requests_ended", "How they ended", labels=["model", "outcome", "reason"])
        late = counter("tercel_requests_late", "Done, but after the deadline", labels=["model"])
        runs = counter("tercel_model_runs", "Runs of a model, of which a batch is one", labels=["model"])
        queued = self._core.HistogramMetricFamily("tercel_queue_seconds", "From arrival to run", labels=["model"])
        computed = self._core.HistogramMetricFamily("tercel_run_seconds", "Of a run", labels=["model"])
        for name, account in list(self._engine.accounts.items()):
            received.add_metric([name], account.received)
            for outcome in ("done", "cancelled", "expired"):
                ended.add_metric([name, outcome, ""], getattr(account, outcome))
            for outcome, reasons in (("refused", account.refused), ("failed", account.failed)):
                for reason, number in list(reasons.items()):
                    ended.add_metric([name, outcome, reason], number)
            late.add_metric([name], account.late)
            runs.add_metric([name], account.runs)
            _add_histogram(queued, name, account.queued)
            _add_histogram(computed, name, account.computed)
        yield from (received, ended, late, runs, queued, computed)
        yield gauge("tercel_queue_length", "Requests that wait", value=self._engine.queued)
        yield gauge("tercel_draining", "Whether new requests are refused", value=float(self._engine.draining))
        yield gauge("tercel_models", "Models that are served", value=len(self._engine.models))
        yield gauge("tercel_model_problems", "Model files that cannot be served", value=len(self._problems()))


def _add_histogram(family: Any, name: str, durations: Durations) -> None:
    buckets, below = [], 0
    for limit, number in zip([*map(str, BUCKETS_S), "+Inf"], list(durations.counts), strict=True):
        below += number
        buckets.append((limit, below))
    family.add_metric([name], buckets=buckets, sum_value=durations.total_ns / 1e9)


class MetricsServer:
    """The HTTP port; port is its number. Raises UserError if it cannot be opened."""

    def __init__(self, host: str, port: int, engine: Engine, problems: Callable[[], Mapping[str, str]] = dict) -> None:
        prometheus = require("prometheus_client", extra="offload")
        registry = prometheus.CollectorRegistry()
        registry.register(EngineCollector(engine, problems))

        class Handler(BaseHTTPRequestHandler):
            timeout = 5  # a client that sends nothing is let go

            def do_GET(self) -> None:
                code, kind, body = 200, "text/plain; charset=utf-8", b"ok\n"
                if self.path == "/metrics":
                    kind, body = prometheus.CONTENT_TYPE_LATEST, prometheus.generate_latest(registry)
                elif self.path == "/v2/health/ready":
                    if engine.draining or not engine.models:
                        code, body = 503, b"not ready\n"
                elif self.path != "/v2/health/live":
                    code, body = 404, b"/metrics, /v2/health/live, /v2/health/ready\n"
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as error:
            raise UserError(f"--metrics {host}:{port}: {error.strerror}; name another port") from None
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
