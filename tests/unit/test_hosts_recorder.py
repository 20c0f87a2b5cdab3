"""Recording what a host sees: nothing lost in silence, readable by others, and by anybody after a kill."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import NonSeekingReader, make_reader

from tercel.cli import main
from tercel.core.errors import UserError
from tercel.core.messages import Imu, PointCloud, Transforms
from tercel.hosts.recorder import NOT_WRITTEN, QUEUE_FULL, Recorder, Recordings, Tap, new_file
from tercel.hosts.recording import open_recording
from tercel.ros.convert import encode
from tercel.ros.transport import Data

REPOSITORY = Path(__file__).resolve().parents[2]
NOW_NS = 1_767_225_599_000_000_000  # 2025-12-31 23:59:59 UTC
IMU = "sensor_msgs/msg/Imu"
TF = "tf2_msgs/msg/TFMessage"


class Tapped:
    """What taps a host offers, without the host."""

    def __init__(self) -> None:
        self.taps: list[Tap] = []
        self.time_ns = NOW_NS

    def add_tap(self, tap: Tap) -> Callable[[], None]:
        self.taps.append(tap)
        return lambda: self.taps.remove(tap) if tap in self.taps else None

    def now_ns(self) -> int:
        return self.time_ns

    def tell(self, topic: str, ros_type: str, data: Data) -> None:
        self.time_ns += 1_000_000
        for tap in self.taps:
            tap(topic, ros_type, data, self.time_ns)


def imu(number: int) -> bytes:
    zeros = np.zeros(3)
    message = Imu(
        stamp_ns=NOW_NS + number, frame_id="imu", angular_velocity_radps=zeros, linear_acceleration_mps2=zeros
    )
    return bytes(encode(message)[1])


def static(child: str) -> bytes:
    message = Transforms(
        stamp_ns=NOW_NS, frame_id="", parents=("base",), children=(child,), parent_T_child=np.eye(4)[None]
    )
    return bytes(encode(message)[1])


def rows_of(path: Path) -> list[tuple[str, int, bytes]]:
    """By the mcap package's own reader, which knows nothing of ours."""
    with path.open("rb") as stream:
        return [(c.topic, m.log_time, m.data) for _, c, m in make_reader(stream).iter_messages()]


def test_what_is_told_is_written_byte_for_byte_and_others_can_read_it(tmp_path: Path) -> None:
    host = Tapped()
    recordings = Recordings(host, tmp_path / "new" / "folder")
    path = recordings.start()
    assert path.name == "tercel_20251231_235959.mcap"
    assert recordings.path == path
    sent = [imu(number) for number in range(200)]
    for data in sent:
        host.tell("/imu", IMU, memoryview(data))
    stopped, account = recordings.stop()
    assert stopped == path
    assert (account.received, account.written, account.dropped, account.failed) == (
        200,
        Counter({"/imu": 200}),
        {},
        None,
    )
    assert account.written_bytes == sum(map(len, sent))
    rows = rows_of(path)
    assert [data for _, _, data in rows] == sent
    assert [log_ns for _, log_ns, _ in rows] == [NOW_NS + (n + 1) * 1_000_000 for n in range(200)]
    ours = open_recording(path)
    assert ours.problems == []
    assert [ours.decode(r).stamp_ns for r in ours.messages(["/imu"])] == [NOW_NS + n for n in range(200)]
    assert recordings.path is None


def test_tercel_info_lists_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = Tapped()
    recordings = Recordings(host, tmp_path)
    path = recordings.start()
    for number in range(5):
        host.tell("/imu", IMU, imu(number))
    recordings.close()
    assert main(["info", str(path)]) == 0
    assert "/imu" in capsys.readouterr().out


def test_latched_topics_are_remembered_and_stand_first_in_every_file(tmp_path: Path) -> None:
    host = Tapped()
    recordings = Recordings(host, tmp_path)
    for child in ("lidar", "camera", "lidar"):
        host.tell("/tf_static", TF, memoryview(static(child)))
    host.tell("/imu", IMU, imu(0))  # before the start: not ours
    files = []
    for number in range(2):
        files.append(recordings.start())
        host.tell("/imu", IMU, imu(number))
        host.tell("/tf_static", TF, static("gps"))
        recordings.stop()
    for path, before in zip(files, (["lidar", "camera"], ["lidar", "camera", "gps"]), strict=True):
        topics = [topic for topic, _, _ in rows_of(path)]
        assert topics == ["/tf_static"] * len(before) + ["/imu", "/tf_static"]
        assert [data for topic, _, data in rows_of(path)][: len(before)] == [static(child) for child in before]
        with path.open("rb") as stream:
            channels = make_reader(stream).get_summary().channels.values()  # type: ignore[union-attr]
        (latched,) = [channel for channel in channels if channel.topic == "/tf_static"]
        assert "durability: 1" in latched.metadata["offered_qos_profiles"]


def test_a_flood_of_latched_messages_is_not_kept_for_ever(tmp_path: Path) -> None:
    host = Tapped()
    recordings = Recordings(host, tmp_path)
    for number in range(300):
        host.tell("/tf_static", TF, static(f"child{number}" + "x" * 10_000))
    path = recordings.start()
    recordings.stop()
    assert 50 < len(rows_of(path)) < 110


def test_what_finds_no_room_is_dropped_counted_and_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    held, entered = threading.Event(), threading.Event()
    data = imu(0)
    recorder = Recorder(tmp_path / "a.mcap", max_waiting_bytes=3 * len(data), say=said.append)
    write_raw = recorder._writer.write_raw

    def slow(*arguments: object) -> None:
        entered.set()
        assert held.wait(10.0)
        write_raw(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(recorder._writer, "write_raw", slow)
    try:
        recorder.add("/imu", IMU, data, 1)
        assert entered.wait(10.0)  # the disk is at it, and sleeps
        for number in range(10):
            recorder.add("/imu", IMU, data, 2 + number)
    finally:
        held.set()
    account = recorder.close()
    assert account.received == 11
    assert account.dropped == {QUEUE_FULL: 7}
    assert account.written == {"/imu": 4}
    assert [log_ns for _, log_ns, _ in rows_of(tmp_path / "a.mcap")] == [1, 2, 3, 4]
    assert len(said) == 1
    recorder.add("/imu", IMU, data, 99)
    assert account.received == 11


def test_many_threads_at_once_lose_nothing_uncounted(tmp_path: Path) -> None:
    host = Tapped()
    recordings = Recordings(host, tmp_path, max_waiting_bytes=100_000)
    path = recordings.start()

    def shout(topic: str) -> None:
        for number in range(500):
            for tap in host.taps:
                tap(topic, IMU, imu(number), NOW_NS + number)

    threads = [threading.Thread(target=shout, args=(f"/imu{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _, account = recordings.stop()
    assert account.received == 2000 == account.written.total() + account.dropped.total()
    assert Counter(topic for topic, _, _ in rows_of(path)) == account.written


def test_a_topic_that_changes_its_type_is_dropped_and_told_once(tmp_path: Path) -> None:
    said: list[str] = []
    recorder = Recorder(tmp_path / "a.mcap", say=said.append)
    recorder.add("/a", IMU, imu(0), 1)
    for _ in range(3):
        recorder.add("/a", TF, static("x"), 2)
    account = recorder.close()
    assert account.written == {"/a": 1}
    assert account.dropped == {"/a carries sensor_msgs/msg/Imu, not tf2_msgs/msg/TFMessage": 3}
    assert account.written_bytes == len(imu(0))
    assert len(said) == 1


def test_only_one_recording_runs_and_each_gets_a_file_of_its_own(tmp_path: Path) -> None:
    recordings = Recordings(Tapped(), tmp_path)
    with pytest.raises(UserError, match="no recording is running"):
        recordings.stop()
    first = recordings.start()
    with pytest.raises(UserError, match="already"):
        recordings.start()
    recordings.stop()
    second = recordings.start()  # in the same second
    recordings.close()
    recordings.close()
    assert {first.name, second.name} == {"tercel_20251231_235959.mcap", "tercel_20251231_235959_2.mcap"}
    assert {first.parent, second.parent} == {tmp_path}


def test_a_file_is_never_written_over_nor_followed_out_of_the_folder(tmp_path: Path) -> None:
    other = tmp_path / "precious"
    other.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "tercel_20251231_235959.mcap").symlink_to(other)
    assert new_file(folder, NOW_NS, ".mcap").name == "tercel_20251231_235959_2.mcap"
    assert other.read_text() == "mine"
    for number in range(3, 101):
        (folder / f"tercel_20251231_235959_{number}.mcap").touch()
    with pytest.raises(OSError, match="100 files"):
        new_file(folder, NOW_NS, ".mcap")


def test_a_folder_that_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recordings = Recordings(Tapped(), tmp_path / "file" / "folder")
    with pytest.raises(UserError, match="no recording in .*folder: ") as error:
        recordings.start()
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_at_the_start_is_an_error_of_the_start() -> None:
    with pytest.raises(OSError, match="No space left"):
        Recorder(Path("/dev/full"))


def test_a_disk_that_fills_up_ends_the_recording_which_says_so_and_counts_the_rest(tmp_path: Path) -> None:
    """A limit on the size of files is as good as a full disk; in a process of its own, since it holds for all files."""
    program = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
import numpy as np
from pathlib import Path
from tercel.core.messages import PointCloud
from tercel.hosts.recorder import Recordings
from tercel.ros.convert import encode
from tests.unit.test_hosts_recorder import Tapped
said = []
host = Tapped()
recordings = Recordings(host, Path({str(tmp_path)!r}), say=said.append)
recordings.start()
rng = np.random.default_rng(0)
for number in range(40):
    points = rng.random((3000, 3), dtype=np.float32)
    host.tell("/cloud", "sensor_msgs/msg/PointCloud2",
              encode(PointCloud(stamp_ns=number, frame_id="lidar", points_m=points))[1])
path, account = recordings.stop()
assert account.failed == "File too large", account
assert account.received == 40 == account.written.total() + account.dropped.total(), account
assert account.dropped.keys() == {{{NOT_WRITTEN!r}}}, account
assert said == [f"recording {{path.name}} has ended early: File too large"], said
host.tell("/cloud", "sensor_msgs/msg/PointCloud2", b"")
print(path)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert (resource.getrlimit(resource.RLIMIT_FSIZE)[0]) != 300_000
    assert open_recording(Path(done.stdout.strip())).problems != []


def test_a_kill_in_mid_recording_leaves_all_but_the_last_second_readable(tmp_path: Path) -> None:
    program = f"""
import itertools, time
from pathlib import Path
from tercel.hosts.recorder import Recordings
from tests.unit.test_hosts_recorder import IMU, Tapped, imu
host = Tapped()
recordings = Recordings(host, Path({str(tmp_path)!r}))
print(recordings.start(), flush=True)
for number in itertools.count():
    host.tell("/imu", IMU, imu(number))
    print(number, flush=True)
    time.sleep(0.01)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    try:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        told: list[tuple[float, int]] = []
        ends_s = time.monotonic() + 2.6
        while time.monotonic() < ends_s:
            told.append((time.monotonic(), int(process.stdout.readline())))
        process.send_signal(signal.SIGKILL)
        process.wait(10.0)
    finally:
        process.kill()
        process.wait()
    sure = [number for at_s, number in told if at_s < told[-1][0] - 1.5]
    with path.open("rb") as stream:
        reader = NonSeekingReader(stream)
        read = []
        try:
            for _, _, message in reader.iter_messages(log_time_order=False):
                read.append(message.data)
        except Exception:  # noqa: S110  # the end is cut off
            pass
    assert len(sure) > 20
    assert read[: len(sure)] == [imu(number) for number in sure]
    ours = open_recording(path)
    stamps = [ours.decode(r).stamp_ns - NOW_NS for r in ours.messages(["/imu"])]
    assert stamps[: len(sure)] == sure
    assert ours.problems != []  # and it says that it is damaged


def test_a_cloud_that_fits_no_chunk_is_written_whole(tmp_path: Path) -> None:
    cloud = PointCloud(stamp_ns=1, frame_id="lidar", points_m=np.ones((300_000, 3), np.float32))
    ros_type, data = encode(cloud)
    recorder = Recorder(tmp_path / "a.mcap")
    recorder.add("/cloud", ros_type, data, 7)
    assert recorder.close().written == {"/cloud": 1}
    assert rows_of(tmp_path / "a.mcap") == [("/cloud", 7, bytes(data))]


def test_a_time_that_no_file_can_hold_ends_the_recording_which_counts_the_rest(tmp_path: Path) -> None:
    said: list[str] = []
    recorder = Recorder(tmp_path / "r.mcap", say=said.append)
    recorder.add("/imu", IMU, imu(0), -1)
    until_failed_s = time.monotonic() + 5
    while recorder.account.failed is None and time.monotonic() < until_failed_s:
        time.sleep(0.01)
    recorder.add("/imu", IMU, imu(1), NOW_NS)
    account = recorder.close()
    assert account.received == 2
    assert account.written.total() == 0
    assert account.dropped == {NOT_WRITTEN: 2}
    assert len(said) == 1
    assert "has ended early" in said[0]
