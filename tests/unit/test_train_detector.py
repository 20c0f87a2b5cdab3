"""Training of our own detector: assignment, losses, augmentation, checkpoints, export. Needs torch (extra `train`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="training needs torch: pip install -e '.[train]'")

from perception.camera_detector import CameraDetector, CameraDetectorConfig  # noqa: E402
from perception.classes import TERCEL_CLASSES  # noqa: E402
from perception.model_catalog import shipped_models  # noqa: E402
from perception.quantize import procedure  # noqa: E402
from perception.quantize.verify import detect_all  # noqa: E402
from perception.runtime import LocalModels, load_network  # noqa: E402
from perception.train import qat  # noqa: E402
from perception.train.assign import assign, paired_iou  # noqa: E402
from perception.train.export import (  # noqa: E402
    Released,
    export_onnx,
    export_released,
    fold,
    released_from_onnx,
)
from perception.train.losses import Batch, generalised_iou, head_loss, middles_and_strides  # noqa: E402
from perception.train.network import Shape, TercelNano  # noqa: E402
from perception.train.qat import Rounded, run, with_rounding, without_rounding  # noqa: E402
from perception.train.run import Settings, schedule, train, weights_of  # noqa: E402
from perception.train.samples import Picture, Sampler, Source  # noqa: E402
from perception.train.stream import Sample, _mirrored, collate  # noqa: E402
from perception.train.worlds import pictures  # noqa: E402
from tercel.cli import main  # noqa: E402
from tercel.core.errors import UserError  # noqa: E402

TINY = Shape((8, 8, 16, 16), (0, 1, 0, 0), 8)


def boxes_around(rng: np.random.Generator, count: int, side_px: int = 64) -> np.ndarray:
    low = rng.uniform(0, side_px - 12, (count, 2))
    return np.concatenate([low, low + rng.uniform(3, 40, (count, 2))], 1).astype(np.float32).clip(0, side_px)


def batch_of(rng: np.random.Generator, size: int = 2, side_px: int = 64, truths: int = 3) -> Batch:
    truth = torch.from_numpy(np.stack([boxes_around(rng, truths, side_px) for _ in range(size)]))
    labels = torch.from_numpy(rng.integers(0, 6, (size, truths)))
    cells = len(middles_and_strides(side_px, side_px)[0])
    shown = torch.from_numpy(rng.uniform(0, 255, (size, 3, side_px, side_px)).astype(np.float32))
    return Batch(shown, truth, labels, torch.zeros(size, cells, 80), torch.zeros(size, dtype=torch.bool))


def slow_assignment(scores, boxes, middles, truth, labels, *, one_to_one):
    """The same rule, a cell and a box at a time."""
    count = 7 if one_to_one else 10
    wanted = []
    for box, label in zip(truth, labels, strict=True):
        size = [box[2] - box[0], box[3] - box[1]]
        half = [(16.0 if s < 8 else s) / 2 for s in size]
        centre = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
        entries = []
        for cell, (x, y) in enumerate(middles):
            if abs(x - centre[0]) < half[0] and abs(y - centre[1]) < half[1]:
                iou = float(paired_iou(torch.tensor(box), torch.tensor(boxes[cell])))
                entries.append((max(scores[cell, label], 1e-6) ** 0.5 * max(iou, 1e-4) ** 6, cell, iou))
        wanted.append(sorted(entries, reverse=True)[:count])
    owner = {}
    for row, entries in enumerate(wanted):
        for alignment, cell, iou in entries:
            if cell not in owner or iou > owner[cell][2]:
                owner[cell] = (row, alignment, iou)
    if one_to_one:
        best = {}
        for cell, (row, alignment, _) in owner.items():
            if row not in best or alignment > best[row][0]:
                best[row] = (alignment, cell)
        owner = {cell: owner[cell] for _, cell in best.values()}
    return {cell: row for cell, (row, _, _) in owner.items()}


@pytest.mark.parametrize("one_to_one", [False, True])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_assignment_is_what_a_loop_over_boxes_and_cells_gives(seed: int, one_to_one: bool) -> None:
    rng = np.random.default_rng(seed)
    middles, _ = middles_and_strides(64, 64)
    scores = rng.uniform(0.01, 1, (1, len(middles), 6)).astype(np.float32)
    boxes = boxes_around(rng, len(middles))[None]
    truth, labels = boxes_around(rng, 4)[None], rng.integers(0, 6, (1, 4))
    owner, quality = assign(
        *map(torch.from_numpy, (scores, boxes)), middles, *map(torch.from_numpy, (truth, labels)), one_to_one=one_to_one
    )
    expected = slow_assignment(scores[0], boxes[0], middles.numpy(), truth[0], labels[0], one_to_one=one_to_one)
    assert {cell: int(row) for cell, row in enumerate(owner[0]) if row >= 0} == expected
    assert bool(((quality >= 0) & (quality <= 1)).all())


def test_one_to_one_gives_each_box_at_most_one_cell_and_every_box_one_where_cells_are_free() -> None:
    rng = np.random.default_rng(3)
    middles, _ = middles_and_strides(64, 64)
    scores, boxes = torch.rand(1, len(middles), 6), torch.from_numpy(boxes_around(rng, len(middles)))[None]
    truth = torch.tensor([[[2.0, 2, 30, 30], [34, 34, 60, 60]]])
    owner, _ = assign(scores, boxes, middles, truth, torch.tensor([[0, 1]]), one_to_one=True)
    assert sorted(owner[owner >= 0].tolist()) == [0, 1]


def test_a_box_smaller_than_a_cell_is_grown_until_a_cell_learns_it() -> None:
    middles, _ = middles_and_strides(64, 64)
    truth = torch.tensor([[[17.0, 17, 19, 19]]])  # holds no middle of a cell
    scores, boxes = torch.rand(1, len(middles), 6), truth.expand(1, len(middles), 4)
    assert not ((middles > 17) & (middles < 19)).all(1).any()
    owner, _ = assign(scores, boxes, middles, truth, torch.zeros(1, 1, dtype=torch.int64), one_to_one=True)
    assert int((owner == 0).sum()) == 1


def test_a_picture_without_objects_has_a_finite_loss_and_teaches_only_background() -> None:
    network = TercelNano(TINY, 6)
    batch = batch_of(np.random.default_rng(0))._replace(
        truth_px=torch.zeros(2, 0, 4), truth_labels=torch.zeros(2, 0).long()
    )
    loss = head_loss(network.one_to_one(network.features(batch.pictures)), batch, one_to_one=True)
    assert torch.isfinite(loss)
    assert float(loss) > 0


def test_generalised_iou_is_one_for_equal_boxes_and_negative_for_distant_ones() -> None:
    first = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    second = torch.tensor([[0.0, 0, 10, 10], [30, 0, 40, 10]])
    torch.testing.assert_close(generalised_iou(first, second), torch.tensor([1.0, -0.5]))


def tiny_source(rng: np.random.Generator, taught: bool = True) -> Source:
    shown = [
        Picture(rng.integers(0, 255, (90, 120, 3)).astype(np.uint8), boxes_around(rng, 3, 90), rng.integers(0, 6, 3))
        for _ in range(3)
    ]
    return Source("random", shown, 1.0, taught, (0.6, 2.0))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_augmented_boxes_lie_in_the_picture_and_have_a_size(seed: int) -> None:
    sampler = Sampler([tiny_source(np.random.default_rng(seed))], 64, seed)
    for _ in range(5):
        bgr, boxes, labels, _ = sampler.draw()
        assert bgr.shape == (64, 64, 3)
        assert bgr.dtype == np.uint8
        assert len(boxes) == len(labels)
        assert (boxes >= 0).all()
        assert (boxes <= 64).all()
        assert ((boxes[:, 2:] - boxes[:, :2]) > 1.0).all()


def test_the_same_seed_draws_the_same_samples() -> None:
    first, second = (Sampler([tiny_source(np.random.default_rng(1))], 64, 9) for _ in range(2))
    for _ in range(6):
        for one, other in zip(first.draw(), second.draw(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_mirroring_twice_gives_the_sample_back_with_the_teachers_cells() -> None:
    rng = np.random.default_rng(0)
    cells = len(middles_and_strides(64, 64)[0])
    teacher = rng.integers(0, 255, (cells, 80)).astype(np.uint8)
    sample = Sample(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8), boxes_around(rng, 2), np.array([0, 1]), teacher)
    back = _mirrored(_mirrored(sample))
    np.testing.assert_array_equal(back.bgr, sample.bgr)
    np.testing.assert_allclose(back.boxes, sample.boxes, atol=1e-4)
    np.testing.assert_array_equal(back.teacher, teacher)
    assert not np.array_equal(_mirrored(sample).teacher, teacher)
    batch = collate([sample, Sample(sample.bgr, sample.boxes[:1], sample.labels[:1], None)])
    assert batch.truth_labels.tolist() == [[0, 1], [0, -1]]
    assert batch.taught.tolist() == [True, False]


def endless(rng: np.random.Generator):
    while True:
        yield batch_of(rng)


def test_training_goes_on_from_its_checkpoint_and_does_nothing_when_its_budget_is_spent(tmp_path: Path) -> None:
    plan = Settings(shape=TINY, side_px=64, early_side_px=64, batch=2, budget_min=0.03)
    lines: list[str] = []
    first = train(plan, lambda side_px: endless(np.random.default_rng(side_px)), tmp_path, report=lines.append)
    again = train(plan, lambda side_px: endless(np.random.default_rng(side_px)), tmp_path, report=lines.append)
    read = weights_of(tmp_path / "checkpoint.npz", plan)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
        assert torch.equal(value, read.state_dict()[name]), name


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth() -> None:
    assert schedule(0.0, 0) < 0.01
    assert schedule(0.0, 500) == 1.0
    assert schedule(1.0, 500) == pytest.approx(0.01)


def trained_a_little(seed: int = 0) -> TercelNano:
    """A network with statistics of its own in each normalisation."""
    torch.manual_seed(seed)
    network = TercelNano(TINY, len(TERCEL_CLASSES)).train()
    for _ in range(4):
        network(torch.rand(4, 3, 64, 64) * 255)
    for parameter in network.parameters():  # equal tensors become one in a file
        parameter.data += 0.01 * torch.randn_like(parameter)
    return network.eval()


def test_a_folded_network_answers_as_the_unfolded_one() -> None:
    network, shown = trained_a_little(), torch.rand(2, 3, 64, 64) * 255
    folded = fold(network)
    expected = network(shown)
    heads = folded.one_to_one(folded.neck_of(folded.stem(shown)))
    for index, (logits, sides) in enumerate(heads):
        torch.testing.assert_close(logits, expected[2 * index], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(torch.relu(sides), expected[2 * index + 1], atol=1e-3, rtol=1e-3)


def test_an_exported_network_is_recognised_and_answers_as_torch_does(tmp_path: Path) -> None:
    network = trained_a_little()
    export_onnx(network, tmp_path / "own.onnx", 64)
    loaded = load_network(tmp_path / "own.onnx")
    detector = CameraDetector(CameraDetectorConfig(score_threshold=0.0), LocalModels({"detector": loaded}))
    assert detector.spec.head == "tercel"
    assert detector.spec.class_names == TERCEL_CLASSES
    shown = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 64)).astype(np.float32)
    for one, other in zip(loaded.run(shown), network(torch.from_numpy(shown)), strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), atol=2e-3, rtol=1e-3)


def test_rounding_is_taken_out_again_without_a_trace() -> None:
    released = Released(trained_a_little())
    shown = torch.rand(1, 3, 64, 64) * 255
    expected = released(shown)
    rounded = with_rounding(released)
    assert any(isinstance(module, Rounded) for module in rounded.modules())
    back = without_rounding(rounded)
    assert not any(isinstance(module, Rounded) for module in back.modules())
    for one, other in zip(back(shown), expected, strict=True):
        assert torch.equal(one, other)


def test_training_with_rounding_comes_closer_to_the_float_network() -> None:
    distances: list[float] = []
    rng = np.random.default_rng(0)
    shown = (batch_of(rng).pictures for _ in iter(int, 1))
    run(
        Released(trained_a_little()), shown, budget_min=2.0, most_steps=75,
        report=lambda line: distances.append(float(line.split()[-1])),
    )  # fmt: skip
    assert distances[-1] <= distances[0]


def test_a_released_file_is_read_back_as_the_network_that_wrote_it(tmp_path: Path) -> None:
    released = Released(trained_a_little())
    export_released(released, tmp_path / "own.onnx", 64)
    back, side_px = released_from_onnx(tmp_path / "own.onnx")
    assert side_px == 64
    shown = torch.rand(1, 3, 64, 64) * 255
    for one, other in zip(back(shown), released(shown), strict=True):
        torch.testing.assert_close(one, other)


def test_a_foreign_file_is_refused_for_training_with_rounding(shared_data: Path) -> None:
    with pytest.raises(UserError, match="only Tercel's own detectors"):
        released_from_onnx(shared_data / "models" / "fastestdet_352.onnx")


def test_worlds_of_evaluation_seeds_are_refused_for_training() -> None:
    with pytest.raises(ValueError, match="seed 7 is not for training"):
        next(pictures("street", 7, rate_hz=1.0, duration_s=2.0))


def test_quantization_after_training_is_held_against_the_model_that_was_named(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Path] = []
    monkeypatch.setattr(procedure, "detect_all", lambda path, *rest: judged.append(path) or detect_all(path, *rest))
    monkeypatch.setattr(qat, "CALIBRATION_BATCHES", 1)
    model = shipped_models()["tercel-nano"]
    images = [str(path) for path in sorted((shared_data / "img_coco256/images/train2017").glob("*.jpg"))[:4]]
    main([
        "quantize", str(model), "--method", "qat", "--training-minutes", "0.01", "--calibration", *images,
        "--verify", *images[:2], "-o", str(tmp_path / "int8.onnx"), "--keep-anyway",
    ])  # fmt: skip
    assert judged[0] == model
    assert judged[1] != model
    assert LocalModels({"detector": load_network(tmp_path / "int8.onnx")}).spec("detector").head == "tercel"
