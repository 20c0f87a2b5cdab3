"""Cloud files: PLY, PCD and .bin, real and damaged."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.sensors.recorded import EPOCH_NS, FORMATS
from devices.sensors.recorded.folders import read_cloud
from devices.sensors.recorded.pcd_files import lzf_decompress
from tercel.core.errors import UserError


def imported(name: str, source: Path, **options: Any) -> Iterator[tuple[str, int, Any]]:
    """The importer's items, with messages of no particular type."""
    return FORMATS[name].read(source, **options)


POINTS = np.array([[1.0, 2.0, 3.0, 0.25], [-4.5, np.nan, 6.0, 0.5], [7.0, 8.0, -9.0, 1.0]], dtype="<f4")
PLY_FIELDS = "property float x\nproperty float y\nproperty float z\nproperty float intensity\n"


def ply(kind: str, count: int, fields: str = PLY_FIELDS) -> bytes:
    return f"ply\nformat {kind} 1.0\ncomment made here\nelement vertex {count}\n{fields}end_header\n".encode()


def pcd(kind: str, count: int) -> bytes:
    head = "VERSION 0.7\nFIELDS x y z intensity\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\n"
    return (
        f"# .PCD v0.7\n{head}WIDTH {count}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA {kind}\n".encode()
    )


def text(points: np.ndarray) -> bytes:
    return "\n".join(" ".join(map(str, row)) for row in points.tolist()).encode() + b"\n"


def lzf_literals(plain: bytes) -> bytes:
    """An LZF stream of literal runs only: what a compressor writes for noise."""
    return b"".join(bytes([len(run) - 1]) + run for run in (plain[i : i + 32] for i in range(0, len(plain), 32)))


def packed(points: np.ndarray) -> bytes:
    body = lzf_literals(points.T.tobytes())
    return struct.pack("<II", len(body), points.nbytes) + body


FILES = {
    "ascii.ply": ply("ascii", 3) + text(POINTS),
    "little.ply": ply("binary_little_endian", 3) + POINTS.tobytes(),
    "big.ply": ply("binary_big_endian", 3) + POINTS.astype(">f4").tobytes(),
    "ascii.pcd": pcd("ascii", 3) + text(POINTS),
    "binary.pcd": pcd("binary", 3) + POINTS.tobytes(),
    "packed.pcd": pcd("binary_compressed", 3) + packed(POINTS),
    "kitti.bin": POINTS.tobytes(),
}


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_file_format_gives_the_same_points_nans_included(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    points_m, intensity, ring = read_cloud(tmp_path / name)
    np.testing.assert_array_equal(points_m, POINTS[:, :3])
    np.testing.assert_array_equal(intensity, POINTS[:, 3])
    assert ring is None


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_cut_file_is_refused_at_every_length(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    # A .bin cut at a point's end and a text cut within its last number are whole files of fewer digits.
    whole = range(0, 48, 16) if name == "kitti.bin" else ()
    for length in range(len(FILES[name]) - 4):
        if length in whole and length:
            continue
        path.write_bytes(FILES[name][:length])
        with pytest.raises(ValueError):  # noqa: PT011 - what is wrong depends on where the cut falls
            read_cloud(path)


@pytest.mark.parametrize(
    ("name", "reason", "content"),
    [
        ("huge.ply", "too short", ply("binary_little_endian", 10**12) + bytes(100)),
        ("huge_ascii.ply", "too short", ply("ascii", 10**12) + b"1 2 3 4\n"),
        ("huge.pcd", "too short", pcd("binary", 10**11) + bytes(100)),
        ("huge_ascii.pcd", "too short", pcd("ascii", 10**11) + b"1 2 3 4\n"),
        ("huge_packed.pcd", "compressed size", pcd("binary_compressed", 10**11) + struct.pack("<II", 8, 0) + bytes(8)),
        ("negative.pcd", "claims", pcd("binary", -5)),
        (
            "bomb.pcd",
            "compressed",
            pcd("binary_compressed", 3) + struct.pack("<II", 6, 48) + b"\x00\x00" + b"\xe0\xff\x00\xe0",
        ),
        ("list.ply", "lists", ply("ascii", 1, "property list uchar int x\n") + b"1 2\n"),
        ("no_z.ply", "no x, y, z", ply("ascii", 1, "property float x\nproperty float y\n") + b"1 2\n"),
        ("words.ply", "could not convert", ply("ascii", 1) + b"one two three four\n"),
        ("type.pcd", "type Q4", pcd("binary", 1).replace(b"TYPE F F F F", b"TYPE Q F F F") + bytes(16)),
        ("kind.pcd", "rot13", pcd("rot13", 1)),
        ("empty.bin", "whole number", b""),
        ("seven.bin", "whole number", b"1234567"),
        ("picture.ply", "not a PLY", b"\x89PNG\r\n\x1a\n" + bytes(64)),
    ],
)
def test_a_lying_or_foreign_file_is_refused_without_allocating(
    name: str, reason: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_cloud(tmp_path / name)


@given(st.binary(max_size=300))
def test_noise_after_a_header_is_refused_or_read_but_never_crashes(noise: bytes) -> None:
    for size in (0, 10, 5000):
        try:
            assert len(lzf_decompress(noise, size)) == size
        except ValueError:
            continue


@given(st.binary(max_size=2000))
def test_lzf_literal_runs_come_back(plain: bytes) -> None:
    assert lzf_decompress(lzf_literals(plain), len(plain)) == plain


def test_lzf_agrees_with_liblzf() -> None:
    # Written by liblzf 3.6 (python-lzf 0.2.6): a literal run, two overlapping copies, one of them long.
    stream = bytes.fromhex("0774657263656c2074e004060061e00a000278797a")
    plain = b"tercel " * 3 + b"a" * 20 + b"xyz"
    assert lzf_decompress(stream, len(plain)) == plain
    with pytest.raises(ValueError, match="damaged"):
        lzf_decompress(stream, len(plain) - 1)
    with pytest.raises(ValueError, match=r"damaged|early"):
        lzf_decompress(stream[:-1], len(plain))


def test_a_pcd_with_padding_doubles_and_byte_intensities_is_read_by_its_offsets(tmp_path: Path) -> None:
    layout = np.dtype(
        [("x", "<f8"), ("y", "<f8"), ("z", "<f8"), ("pad", "u1", 3), ("intensity", "u1"), ("ring", "<u2")]
    )
    points = np.zeros(2, layout)
    points["x"], points["z"], points["intensity"], points["ring"] = [1, 2], [5, 6], [51, 255], [3, 63]
    head = "FIELDS x y z _ intensity ring\nSIZE 8 8 8 1 1 2\nTYPE F F F U U U\nCOUNT 1 1 1 3 1 1\nWIDTH 2\nHEIGHT 1\n"
    (tmp_path / "a.pcd").write_bytes(f"{head}DATA binary\n".encode() + points.tobytes())
    points_m, intensity, ring = read_cloud(tmp_path / "a.pcd")
    assert points_m.tolist() == [[1, 0, 5], [2, 0, 6]]
    assert intensity is not None
    np.testing.assert_allclose(intensity, [0.2, 1.0])
    assert ring is not None
    assert ring.tolist() == [3, 63]


def test_a_folder_is_read_in_natural_order_and_a_damaged_file_keeps_its_place(tmp_path: Path) -> None:
    for number in (1, 2, 10, 11):
        np.full((number, 4), number, "<f4").tofile(tmp_path / f"scan{number}.bin")
    (tmp_path / "scan2.bin").write_bytes(b"1234567")
    problems: list[str] = []
    items = list(imported("clouds", tmp_path, rate_hz=2.0, problems=problems))
    assert [len(message.points_m) for _, _, message in items] == [1, 10, 11]
    assert [stamp_ns - EPOCH_NS for _, stamp_ns, _ in items] == [0, 10**9, 3 * 10**9 // 2]
    assert len(problems) == 1
    assert "scan2.bin" in problems[0]


def test_a_folder_of_damaged_files_only_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"1234567")
    with pytest.raises(UserError, match=r"nothing could be read; .*a\.bin"):
        list(imported("clouds", tmp_path, problems=[]))


def test_the_nuscenes_sweep_has_32_rings_and_intensities_to_one(shared_data: Path) -> None:
    items = list(imported("clouds", shared_data / "lidar_nuscenes_sample" / "LIDAR_TOP.pcd.bin", problems=[]))
    cloud = items[0][2]
    assert len(items) == 1
    assert cloud.points_m.shape == (34688, 3)
    assert np.unique(cloud.ring).tolist() == list(range(32))
    assert (cloud.intensity.min(), cloud.intensity.max()) == (0.0, 1.0)


def test_small_gicps_pair_is_read_as_small_gicp_reads_it_and_its_answer_fits(shared_data: Path) -> None:
    small_gicp = pytest.importorskip("small_gicp")
    folder = shared_data / "lidar_pairs" / "small_gicp"
    (_, _, source), (_, _, target) = imported("clouds", folder, problems=[])
    for cloud, name in ((source, "source.ply"), (target, "target.ply")):
        np.testing.assert_allclose(cloud.points_m, small_gicp.read_ply(str(folder / name)).points()[:, :3], atol=1e-5)
    assert source.intensity is not None
    result = small_gicp.align(target.points_m.astype(float), source.points_m.astype(float), downsampling_resolution=0.3)
    np.testing.assert_allclose(result.T_target_source, np.loadtxt(folder / "T_target_source.txt"), atol=0.05)
