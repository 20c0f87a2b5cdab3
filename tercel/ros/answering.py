"""Services as plain functions: a request's fields in, a response's fields out, and CDR bytes around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tercel.core.errors import Rejected, UserError
from tercel.ros.service_types import make_response, read_request
from tercel.ros.transport import Data, Transport

Say = Callable[[str], None]
TRIGGER = "std_srvs/srv/Trigger"


def serve(
    transport: Transport, service: str, srv_type: str, work: Callable[[Any], Mapping[str, Any]], say: Say
) -> None:
    """Offer a service. work: from the request (rosbags' dataclass) to the fields of the response.

    A request that does not decode, and a work that raises, are told to `say`, and answered with an empty response:
    whoever asks is not left waiting.
    """

    def answer(data: Data) -> Data:
        try:
            return make_response(srv_type, **work(read_request(srv_type, data)))
        except Rejected as rejection:
            say(f"{service}: {rejection}")
        except Exception as error:  # the node must live on
            say(f"{service} failed: {type(error).__name__}: {error}")
        return make_response(srv_type)

    transport.serve(service, srv_type, answer)


def serve_trigger(transport: Transport, service: str, work: Callable[[], str], say: Say) -> None:
    """Offer a std_srvs/srv/Trigger. work returns the message of a success; what it raises is that of a failure."""

    def triggered(_request: Any) -> dict[str, Any]:
        try:
            return {"success": True, "message": work()}
        except UserError as error:
            return {"success": False, "message": str(error)}
        except OSError as error:
            return {"success": False, "message": f"{error.strerror or error}: {error.filename or ''}".rstrip(": ")}
        except Exception as error:
            line = f"{type(error).__name__}: {error}"
            say(f"{service} failed: {line}")
            return {"success": False, "message": line}

    serve(transport, service, TRIGGER, triggered, say)
