"""Training of the descriptor for distant pairs: losses, checkpoints, export, labels without poses. Needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="training needs torch: pip install -e '.[train]'")

from registration.distant import learned  # noqa: E402
from registration.distant.patches import AZIMUTHS, BITS, RINGS_M, SIDE, mark  # noqa: E402
from registration.train.adapt import Adaptation, adapt, label  # noqa: E402
from registration.train.data import View, World, draw_batch  # noqa: E402
from registration.train.export import export_onnx  # noqa: E402
from registration.train.losses import completion, contrast, group  # noqa: E402
from registration.train.network import Descriptor  # noqa: E402
from registration.train.run import Settings, Student, train, weights_of  # noqa: E402
from tercel.core.geometry import (  # noqa: E402
    from_rotation_translation,
    inverse,
    rotation_about_z,
    transform_points,
)

Array = NDArray[Any]
TINY = Settings(width=8, groups=1, views=3, places=10, others=5, nearest_m=1.0, farthest_m=80.0, most_steps=3)


def world_of_things(seed: int = 0, sensors: int = 4) -> World:
    """Upright things on a plane, every sensor seeing nine in ten of them, 10 m apart along x and turned by any yaw."""
    rng = np.random.default_rng(seed)
    things_m = rng.uniform([-30, -30, 0.5], [60, 30, 3.0], (300, 3)).astype(np.float32)
    dense = np.zeros((400, 400), np.uint16)
    mark(dense, things_m, np.arange(len(things_m)) % 5)
    views = []
    for k in range(sensors):
        world_T_level = from_rotation_translation(rotation_about_z(rng.uniform(-3, 3)), np.array([10.0 * k, 0.0, 0.0]))
        kept = np.flatnonzero(rng.random(len(things_m)) < 0.9)
        at = transform_points(inverse(world_T_level), things_m[kept])
        grid = np.zeros((SIDE, SIDE), np.uint16)
        mark(grid, at, kept % 5)
        views.append(View(grid, at, at[:, 2], np.ones(len(at), dtype=bool), world_T_level))
    return World(tuple(views), dense, np.zeros(2))


def rows(seed: int, count: int = 12) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    features = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(count, 6)).astype(np.float32)), dim=1)
    position_m = torch.from_numpy(rng.uniform(0, 5, (count, 3)).astype(np.float32))
    place = torch.from_numpy(rng.integers(-1, 4, count))
    return features, position_m, place, torch.from_numpy(rng.integers(0, 3, count))


@pytest.mark.parametrize("seed", range(5))
def test_the_contrast_is_what_a_loop_over_pairs_gives(seed: int) -> None:
    features, position_m, place, view = rows(seed)
    terms = []
    for i in range(12):
        apart = [j for j in range(12) if torch.linalg.norm(position_m[i] - position_m[j]) > 2.0]
        for j in range(12):
            if place[i] >= 0 and place[i] == place[j] and view[i] != view[j]:
                scores = torch.tensor([float(features[i] @ features[k]) / 0.1 for k in (j, *apart)])
                terms.append(float(torch.logsumexp(scores, 0) - scores[0]))
    found = contrast(features, position_m, place, view, apart_m=2.0, temperature=0.1)
    assert float(found) == pytest.approx(np.mean(terms) if terms else 0.0, rel=1e-4)


def test_places_whose_views_agree_cost_less_than_places_whose_views_differ() -> None:
    torch.manual_seed(0)
    middles = torch.nn.functional.normalize(torch.randn(5, 16), dim=1)
    place = torch.arange(5).repeat_interleave(3)
    position_m = 10.0 * place[:, None].float().expand(15, 3)
    kind = {"apart_m": 2.0, "temperature": 0.1}
    agreeing = group(middles[place], position_m, place, **kind)
    differing = group(torch.nn.functional.normalize(torch.randn(15, 16), dim=1), position_m, place, **kind)
    assert float(agreeing) < 0.1
    assert float(differing) > 1.0
    assert float(group(middles[place], position_m, torch.full((15,), -1), **kind)) == 0.0


def test_a_right_completion_costs_nothing_and_a_missed_cell_more_than_an_invented_one() -> None:
    dense = (torch.rand(3, AZIMUTHS, 96, generator=torch.Generator().manual_seed(0)) < 0.1).to(torch.uint8)
    logits = 40.0 * (dense.float() - 0.5)
    assert float(completion(logits, dense)) < 1e-6
    nothing = torch.full_like(logits, -20.0)
    everything = torch.full_like(logits, 20.0)
    missed = float(completion(nothing, dense)) / float(dense.float().mean())
    invented = float(completion(everything, dense)) / float(1.0 - dense.float().mean())
    assert missed > 3.0 * invented


def test_training_goes_on_from_where_it_was_interrupted_and_ends_the_same(tmp_path: Path) -> None:
    worlds = [world_of_things(0)]
    whole = train(TINY, worlds, tmp_path / "whole", report=lambda line: None)
    calls: list[Descriptor] = []

    def interrupt(network: Descriptor) -> str:
        calls.append(network)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(TINY, worlds, tmp_path / "again", report=lambda line: None, examine=interrupt, every_min=0.0)
    assert len(calls) == 1  # after the first step, with two to go
    again = train(TINY, worlds, tmp_path / "again", report=lambda line: None)
    read = weights_of(tmp_path / "again" / "checkpoint.npz", 8)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
        assert torch.equal(value, read.state_dict()[name]), name


def test_every_loss_falls_when_the_same_batch_is_learned_again_and_again() -> None:
    torch.manual_seed(0)
    student = Student(8)
    batch = draw_batch(
        [world_of_things(4)], np.random.default_rng(0), groups=1, size=2, places=20, others=0,
        nearest_m=5.0, farthest_m=25.0,
    )  # fmt: skip
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    history = []
    for _ in range(30):
        loss, parts = student.loss(batch, TINY)
        history.append(parts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name in ("contrast", "group", "completion"):
        assert history[-1][name] < 0.7 * history[0][name], name


def test_losses_can_be_left_out_one_by_one() -> None:
    batch = draw_batch(
        [world_of_things(4)], np.random.default_rng(0), groups=1, size=2, places=10, others=0,
        nearest_m=5.0, farthest_m=25.0,
    )  # fmt: skip
    student = Student(8)
    for changed, expected in (
        ({}, {"contrast", "group", "completion"}),
        ({"group_weight": 0.0}, {"contrast", "completion"}),
        ({"completion_weight": 0.0}, {"contrast", "group"}),
    ):
        assert set(student.loss(batch, Settings(**{**TINY.__dict__, **changed}))[1]) == expected


def test_the_distance_grows_from_near_to_far_and_can_be_left_alone() -> None:
    growing, whole = Settings(), Settings(extend=False)
    assert growing.farthest_at(0.0) == growing.nearest_m + 10.0
    assert growing.farthest_at(0.5) == growing.farthest_m
    assert whole.farthest_at(0.0) == whole.farthest_m
    plan = Adaptation()
    intervals = [plan.interval_at(progress) for progress in (0.0, 0.3, 0.7, 1.0)]
    assert intervals == sorted(intervals)
    assert (intervals[0], intervals[-1]) == (plan.least_interval, plan.most_interval)


def test_an_exported_network_answers_as_torch_does_for_any_number_of_keypoints(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = Descriptor(8).eval()
    export_onnx(network, tmp_path / "own.onnx")
    session = learned._session(tmp_path / "own.onnx")
    for count in (1, 7):
        rng = np.random.default_rng(count)
        seen = (rng.random((count, AZIMUTHS, len(RINGS_M) * BITS)) < 0.2).astype(np.uint8)
        height_m = rng.uniform(0, 5, count).astype(np.float32)
        (found,) = session.run(None, {"patches": seen, "height_m": height_m})
        expected = network(torch.from_numpy(seen), torch.from_numpy(height_m)).detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_pair_is_labelled_by_what_most_matches_agree_on_and_not_labelled_without_agreement() -> None:
    world = world_of_things(3, sensors=2)
    target, source = world.views
    truth = inverse(target.world_T_level) @ source.world_T_level
    moved = transform_points(truth, source.keypoints_m)
    apart = np.linalg.norm(target.keypoints_m[:, None] - moved[None], axis=2)
    rng = np.random.default_rng(0)
    own = rng.normal(size=(len(target.keypoints_m), 32)).astype(np.float32)
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    theirs = own[apart.argmin(axis=0)]
    wrong = rng.random(len(theirs)) < 0.5
    theirs[wrong] = rng.permutation(theirs[wrong])
    found = label(target, source, (own, theirs), Adaptation())
    assert found is not None
    np.testing.assert_allclose(found, truth, atol=0.05)
    nonsense = rng.normal(size=theirs.shape).astype(np.float32)
    assert label(target, source, (own, nonsense), Adaptation()) is None


def test_adapting_without_poses_is_the_same_every_time_and_leaves_the_given_network_alone() -> None:
    torch.manual_seed(2)
    network = Descriptor(8).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    views = [View(v.grid, v.keypoints_m, v.height_m, v.still, np.eye(4)) for v in world_of_things(5).views]
    plan = Adaptation(steps=2, least_matches=3, most_interval=2, keep=0.5, places=20, others=10)
    first, again = (adapt(network, views, plan, report=lambda line: None) for _ in range(2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
        assert torch.equal(before[name], network.state_dict()[name]), name
