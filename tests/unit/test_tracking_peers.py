"""What the comparison with others rests on: the same data for all, SORT as published, scores from the same files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.peers.contest import Contest, Entry
from tests.benchmarks.peers.filterpy_sort import FilterpySort
from tests.benchmarks.peers.streams import Stream, simulated_stream, write_detections
from tracking.files import detections_2d
from tracking.presets import make_tracker_2d

PEERS = Path(__file__).resolve().parents[1] / "benchmarks" / "peers"


@pytest.fixture(scope="module")
def stream() -> Stream:
    return simulated_stream(20, 60)


def test_sort_follows_filterpys_sort_box_by_box_and_identity_by_identity(stream: Stream) -> None:
    ours, theirs = make_tracker_2d("sort", frame_period_s=1.0 / stream.rate_hz), FilterpySort()
    known: dict[int, int] = {}
    count = 0
    for message in detections_2d(stream.detections, stream.frames, stream.rate_hz):
        tracks, rows = ours.step(message)["tracks"], theirs.update(message.boxes_xyxy_px.astype(np.float64))
        assert len(tracks.ids) == len(rows)
        order, other = np.lexsort(tracks.boxes_xyxy_px.T.round(1)), np.lexsort(rows[:, :4].T.round(1))
        np.testing.assert_allclose(tracks.boxes_xyxy_px[order], rows[other, :4], rtol=1e-4, atol=1e-2)
        for own_id, their_id in zip(tracks.ids[order].tolist(), rows[other, 4].tolist(), strict=True):
            assert known.setdefault(own_id, their_id) == their_id
        count += len(rows)
    assert count > 500
    assert len(set(known.values())) == len(known)


def test_a_simulated_stream_is_the_same_each_time_and_as_described() -> None:
    stream, again, other = simulated_stream(50, 100), simulated_stream(50, 100), simulated_stream(50, 100, seed=8)
    np.testing.assert_array_equal(stream.detections.boxes_xyxy_px, again.detections.boxes_xyxy_px)
    assert not np.array_equal(stream.truth.boxes_xyxy_px, other.truth.boxes_xyxy_px)
    assert len(stream.truth) == 50 * 100
    assert len(stream.detections) == pytest.approx(100 * (45 + 5), rel=0.03)
    centers = stream.truth.boxes_xyxy_px.reshape(-1, 2, 2).mean(axis=1)
    assert (centers >= 0).all()
    assert (centers <= [stream.width_px, stream.height_px]).all()
    assert (stream.detections.boxes_xyxy_px[:, 2:] > stream.detections.boxes_xyxy_px[:, :2]).all()


def test_a_peer_run_from_the_command_line_answers_with_times_and_writes_tracks_that_score(
    stream: Stream, tmp_path: Path
) -> None:
    contest = Contest("small", [stream], tmp_path, worker=None)
    write_detections(contest.detections, [stream])
    entry = Entry("filterpy SORT", "default", {}, ours=False)
    command = [sys.executable, PEERS / "run_peer.py", "--peer", entry.tracker, "--detections", contest.detections]
    done = subprocess.run(
        [*map(str, command), "--results", str(contest.tracks_of(entry))], capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    assert answer["frames"] == 60
    assert answer["finished"]
    assert answer["seconds"] > 0
    own = Entry("sort", "default", {}, ours=True)
    contest.run(own)
    entry.scores = contest.score(entry)
    assert own.measure("HOTA") == pytest.approx(entry.measure("HOTA"), abs=0.01)
    assert own.measure("HOTA") > 40


def test_the_peers_process_answers_a_bad_request_with_a_reason_and_goes_on(tmp_path: Path) -> None:
    requests = '{"peer": "none"}\nno json\n'
    done = subprocess.run(
        [sys.executable, str(PEERS / "run_peer.py"), "--serve"], input=requests, capture_output=True, text=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [sorted(answer) for answer in answers] == [["error"], ["error"]]
    assert done.returncode == 0


def test_a_peer_that_cannot_run_is_named_with_its_reason_and_has_no_speed(stream: Stream, tmp_path: Path) -> None:
    entry = Entry("norfair", "default", {}, ours=False)
    Contest("small", [stream], tmp_path, worker=None).run(entry)
    assert entry.problem
    assert entry.frames_per_s == 0
    assert np.isnan(entry.measure("HOTA"))
