"""Train the learned policy in the suite's own simulator: cloning a teacher, then proximal policy optimisation.

    python -m tests.benchmarks.learned_offload.train OUT --reward utility [--clone tercel|edf_ec|none]
        [--budget-s 600] [--seed 0]

OUT is a folder: checkpoint.npz (all of it; a run that finds one goes on from there), network.npz (the policy alone),
log.csv (an iteration a line). The generators of an iteration follow from the seed and its number, so that a run that
was broken off goes on as if it had not been, but for the number of iterations, which is what the time allows.

Links are simulated (constant, ramped, Gilbert-Elliott, with parameters drawn wide), none is recorded; days have seeds
that no benchmark uses. PPO: Schulman et al. 2017, clipped, with `rewards.returns`
less a learned value as the advantage.
Needs torch (extra "train"), on one thread.

weights/ holds what seed 0 gave, begun as clones of tercel (cloned.npz): utility.npz after 150 iterations, 1400 s by the
clock; time_energy.npz after 181, 1200 s; both at the same time on two busy cores. The first 84 and 55 iterations were
at half of ACTOR_RATE.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from offload.fleets import read_fleets
from offload.link import Link, load_link
from offload.policies import POLICIES
from offload.policies.policy import PolicyContext
from offload.scenario import Day, Fleet, draw_day
from offload.scores import score
from offload.simulator import simulate
from tercel.core.errors import UserError, require
from tests.benchmarks.learned_offload.policy import (
    LearnedPolicy,
    Network,
    Step,
    Steps,
    Watched,
    load_network,
    save_network,
)
from tests.benchmarks.learned_offload.rewards import REWARDS, returns, task_rewards
from tests.benchmarks.learned_offload.view import ACTIONS, FEATURES

Array = NDArray[Any]

FLEETS = Path(__file__).resolve().parents[3] / "launch" / "fleets" / "dems.yaml"
TRAINING_SEEDS = 1_000_000
"""Days of training have seeds from here on, a million for each seed of training; no benchmark uses them."""
DAY_NS = 60_000_000_000
WIDTHS = (96, 64)
DAYS, EPOCHS, BATCH = 8, 4, 1024
CLONED_DAYS, CLONING_EPOCHS = 60, 12
CLIP, ENTROPY, MAX_NORM = 0.2, 0.01, 0.5
ACTOR_RATE, CRITIC_RATE = 6e-4, 1e-3
WARM_UP = 3
"""Iterations after cloning in which only the critic learns."""


# --- days ------------------------------------------------------------------------------------------------------------


def draw_link(generator: np.random.Generator, seed: int) -> Link:
    """A simulated link with parameters drawn wide."""
    rate_mbps, rtt_ms = float(np.exp(generator.uniform(np.log(2), np.log(60)))), float(generator.uniform(15, 100))
    model = generator.choice(["constant", "ramp", "outages", "fading"], p=[0.25, 0.25, 0.25, 0.25])
    settings: dict[str, Any] = {"rate_mbps": rate_mbps, "rtt_ms": rtt_ms}
    if model == "constant":
        settings |= {"model": "constant"}
    elif model == "ramp":
        period_s = float(generator.uniform(30, 120))
        settings |= {"model": "ramp", "extra_rtt_ms": float(generator.uniform(100, 600)), "period_s": period_s}
        settings |= {"ramp_s": period_s * 0.2, "hold_s": period_s * 0.2}
    elif model == "outages":
        settings |= {"model": "gilbert_elliott", "good_s": float(generator.uniform(5, 30)), "duration_s": 120}
        settings |= {"bad_s": float(generator.uniform(1, 10)), "bad_mbps": float(generator.choice([0.0, 0.3, 1.0]))}
        settings |= {"bad_rtt_ms": rtt_ms + float(generator.uniform(0, 250))}
    else:
        settings |= {"model": "gilbert_elliott", "good_s": float(generator.uniform(0.3, 3)), "duration_s": 120}
        settings |= {
            "bad_s": float(generator.uniform(0.2, 2)),
            "bad_mbps": rate_mbps * float(generator.uniform(0.05, 0.4)),
        }
    return load_link(settings, seed, int(generator.integers(0, 60_000_000_000)))


def training_day(fleets: dict[str, Fleet], seed: int) -> Day:
    """A minute of a fleet of one to five drones on one box."""
    generator = np.random.default_rng(seed)
    fleet = fleets[str(generator.choice(["2D-P", "2D-A"], p=[0.35, 0.65]))]
    drones = int(generator.integers(1, 6))
    fleet = replace(fleet, drones=drones, drones_per_box=drones, duration_ns=DAY_NS)
    return draw_day(fleet, [draw_link(generator, seed)], seed)


def read_training_fleets() -> dict[str, Fleet]:
    """The workloads that days are drawn after."""
    return {name: workload.fleet for name, workload in read_fleets(FLEETS).items()}


# --- the networks ----------------------------------------------------------------------------------------------------


class Learner:
    """Actor, critic and their optimisers, in torch; all of it to and from plain arrays."""

    def __init__(self, seed: int) -> None:
        self.torch = torch = require("torch", extra="train")
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.actor, self.critic = self._mlp(ACTIONS), self._mlp(1)
        with torch.no_grad():
            self.actor[-1].weight.mul_(0.01)
        self.center, self.scale = np.zeros(FEATURES, np.float32), np.ones(FEATURES, np.float32)
        self.optimizers = {
            "actor": torch.optim.Adam(self.actor.parameters(), ACTOR_RATE),
            "critic": torch.optim.Adam(self.critic.parameters(), CRITIC_RATE),
        }

    def _mlp(self, out: int) -> Any:
        nn = self.torch.nn
        layers, width = [], FEATURES
        for wide in WIDTHS:
            layers += [nn.Linear(width, wide), nn.Tanh()]
            width = wide
        return nn.Sequential(*layers, nn.Linear(width, out))

    def network(self) -> Network:
        """The actor, for inference in numpy."""
        linear = [layer for layer in self.actor if hasattr(layer, "weight")]
        layers = [(one.weight.detach().numpy().T.copy(), one.bias.detach().numpy().copy()) for one in linear]
        return Network(self.center.copy(), self.scale.copy(), tuple(layers))

    def standardise(self, features: Array) -> None:
        """Fix the standardisation from a sample (S, F). What does not vary there is left as it is, centred."""
        self.center = features.mean(axis=0).astype(np.float32)
        spread = features.std(axis=0)
        self.scale = np.where(spread > 1e-3, 1.0 / np.maximum(spread, 1e-3), 1.0).astype(np.float32)
        # The preference is drawn evenly in training, whatever the sample had.
        self.center[-1], self.scale[-1] = 0.5, 3.46

    def prepared(self, features: Array) -> Any:
        """(S, F) as the networks take it."""
        return self.torch.from_numpy(np.clip((features - self.center) * self.scale, -5.0, 5.0).astype(np.float32))

    def log_chances(self, x: Any, allowed: Any) -> Any:
        """(S, ACTIONS) of the allowed actions."""
        return self.torch.log_softmax(self.actor(x).masked_fill(~allowed, -1e9), dim=1)

    def values(self, x: Any) -> Array:
        """(S,)."""
        with self.torch.no_grad():
            result: Array = self.critic(x)[:, 0].numpy().astype(np.float64)
        return result

    def arrays(self) -> dict[str, Array]:
        """All that training needs to go on."""
        result = {"center": self.center, "scale": self.scale}
        for name, model in (("actor", self.actor), ("critic", self.critic)):
            result |= {f"{name}.{key}": value.numpy().copy() for key, value in model.state_dict().items()}
            for index, state in self.optimizers[name].state_dict()["state"].items():
                result |= {f"{name}_adam.{index}.{key}": np.asarray(value) for key, value in state.items()}
        return result

    def restore(self, arrays: dict[str, Array]) -> None:
        """Take up what `arrays` gave."""
        torch = self.torch
        self.center, self.scale = arrays["center"], arrays["scale"]
        for name, model in (("actor", self.actor), ("critic", self.critic)):
            model.load_state_dict({key: torch.from_numpy(arrays[f"{name}.{key}"]) for key in model.state_dict()})
            state: dict[int, dict[str, Any]] = {}
            for key, value in arrays.items():
                if key.startswith(f"{name}_adam."):
                    _, index, of_adam = key.split(".")
                    state.setdefault(int(index), {})[of_adam] = torch.from_numpy(value)
            groups = self.optimizers[name].state_dict()["param_groups"]
            self.optimizers[name].load_state_dict({"state": state, "param_groups": groups})


def save_checkpoint(path: Path, learner: Learner, iteration: int, spent_s: float) -> None:
    """Written beside and moved into place, so that a broken run leaves a whole one."""
    new = path.with_suffix(".new.npz")
    np.savez(new, iteration=iteration, spent_s=spent_s, **learner.arrays())  # type: ignore[arg-type]
    new.replace(path)


def load_checkpoint(path: Path, learner: Learner) -> tuple[int, float]:
    """(iterations done, seconds spent). Raises UserError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        learner.restore(arrays)
        return int(arrays["iteration"]), float(arrays["spent_s"])
    except (OSError, BadZipFile, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{path}: no checkpoint of this training ({str(error)[:80]}); choose another folder") from None


# --- cloning ---------------------------------------------------------------------------------------------------------


def teacher_steps(fleets: dict[str, Fleet], teacher: str, seeds: range) -> list[Step]:
    """What a teacher does on days of training."""
    result = []
    for seed in seeds:
        day, steps = training_day(fleets, seed), Steps()

        def watched(context: PolicyContext, steps: Steps = steps) -> Watched:
            return Watched(context, POLICIES[teacher], steps)

        run = simulate(day, watched)
        places = [[option.place for option in kind.options] for kind in day.kinds]
        in_cloud = {
            row for row, (kind, option) in enumerate(zip(day.kind.tolist(), run.option.tolist(), strict=True))
            if option >= 0 and places[kind][option] == "cloud"
        }  # fmt: skip
        result += steps.corrected(in_cloud)
    return result


def clone(learner: Learner, steps: list[Step], seed: int) -> float:
    """Fit the actor to a teacher's steps by cross entropy; returns the share of a tenth held out that it repeats."""
    torch = learner.torch
    features = np.stack([step.features for step in steps])
    features[:, -1] = np.random.default_rng([seed, 1]).uniform(size=len(steps))
    learner.standardise(features)
    x, allowed = learner.prepared(features), torch.from_numpy(np.stack([step.allowed for step in steps]))
    actions = torch.tensor([step.action for step in steps])
    held_out = len(steps) // 10
    optimizer = torch.optim.Adam(learner.actor.parameters(), 1e-3)
    generator = np.random.default_rng([seed, 2])
    for _ in range(CLONING_EPOCHS):
        order = held_out + generator.permutation(len(steps) - held_out)
        for rows in np.array_split(order, max(1, len(order) // 512)):
            chosen = learner.log_chances(x[rows], allowed[rows]).gather(1, actions[rows, None])
            optimizer.zero_grad()
            (-chosen.mean()).backward()
            optimizer.step()
    with torch.no_grad():
        same = learner.log_chances(x[:held_out], allowed[:held_out]).argmax(1) == actions[:held_out]
    return float(same.float().mean())


# --- proximal policy optimisation ------------------------------------------------------------------------------------


def roll_out(
    fleets: dict[str, Fleet], network: Network, reward: str, seed: int, draws: np.random.Generator
) -> tuple[list[Step], Array, dict[str, float]]:
    """One day: its decisions, what followed from each, and how it went."""
    day, steps = training_day(fleets, seed), Steps()
    # Preferences at the very ends are as frequent as all others, since they are what others are blends of.
    preference = float(np.clip(draws.uniform(-0.15, 1.15), 0.0, 1.0))

    def make(context: PolicyContext) -> LearnedPolicy:
        may_drop = reward == "utility"
        return LearnedPolicy(context, network, preference, generator=draws, steps=steps, may_drop=may_drop)

    run = simulate(day, make)
    of_task = task_rewards(day, run, reward, preference)
    scores = score(day, run)
    facts = {"reward": float(of_task.mean()), "completion": scores.completion}
    return steps.steps, returns(steps.steps, of_task), facts


def improve(
    learner: Learner, days: list[tuple[list[Step], Array]], draws: np.random.Generator, *, both: bool
) -> dict[str, float]:
    """One iteration of PPO over the days' decisions; both: the actor too. Returns what the log shows."""
    torch = learner.torch
    steps = [step for day, _ in days for step in day]
    x = learner.prepared(np.stack([step.features for step in steps]))
    allowed = torch.from_numpy(np.stack([step.allowed for step in steps]))
    actions, old = torch.tensor([s.action for s in steps]), torch.tensor([s.log_chance for s in steps])
    wanted = np.concatenate([followed for _, followed in days])
    gain = wanted - learner.values(x)
    explained = 1.0 - float(np.var(gain) / max(1e-9, np.var(wanted)))
    wanted = torch.from_numpy(wanted.astype(np.float32))
    advantage = torch.from_numpy(((gain - gain.mean()) / (gain.std() + 1e-8)).astype(np.float32))
    entropy = torch.zeros(())
    for _ in range(EPOCHS):
        for rows in np.array_split(draws.permutation(len(steps)), max(1, len(steps) // BATCH)):
            error = learner.critic(x[rows])[:, 0] - wanted[rows]
            _descend(learner, "critic", (error * error).mean())
            if both:
                logs = learner.log_chances(x[rows], allowed[rows])
                ratio = torch.exp(logs.gather(1, actions[rows, None])[:, 0] - old[rows])
                clipped = torch.clamp(ratio, 1 - CLIP, 1 + CLIP)
                gained = torch.minimum(ratio * advantage[rows], clipped * advantage[rows]).mean()
                entropy = -(torch.exp(logs) * logs * allowed[rows]).sum(1).mean()
                _descend(learner, "actor", -gained - ENTROPY * entropy)
    return {"explained": explained, "entropy": float(entropy.detach()), "decisions": float(len(steps))}


def _descend(learner: Learner, name: str, loss: Any) -> None:
    model, optimizer = getattr(learner, name), learner.optimizers[name]
    optimizer.zero_grad()
    loss.backward()
    learner.torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    optimizer.step()


def train(
    out: Path, reward: str, teacher: str, budget_s: float, seed: int, say: Callable[[str], None] = print
) -> Network:
    """Train for budget_s in all, over however many runs. Raises UserError."""
    learner, fleets = Learner(seed), read_training_fleets()
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.npz"
    first = TRAINING_SEEDS * (seed + 1)
    iteration, before_s, began_s = 0, 0.0, time.monotonic()
    if checkpoint.exists():
        iteration, before_s = load_checkpoint(checkpoint, learner)
    else:
        steps = teacher_steps(fleets, "edf_ec" if teacher == "none" else teacher, range(first, first + CLONED_DAYS))
        if teacher == "none":  # only what is usual is learnt from it
            learner.standardise(np.stack([step.features for step in steps]))
        else:
            say(
                f"cloned {teacher}: {len(steps)} decisions, repeats {clone(learner, steps, seed):.3f} of those held out"
            )
        save_network(out / "cloned.npz", learner.network())
        (out / "log.csv").write_text("iteration,spent_s,reward,completion,explained,entropy,decisions\n")
    while (spent_s := before_s + time.monotonic() - began_s) < budget_s:
        draws = np.random.default_rng([seed, 3, iteration])
        network = learner.network()
        seeds = range(first + CLONED_DAYS + iteration * DAYS, first + CLONED_DAYS + (iteration + 1) * DAYS)
        days = [roll_out(fleets, network, reward, one, draws) for one in seeds]
        both = teacher == "none" or iteration >= WARM_UP
        facts = improve(learner, [(steps, rewards) for steps, rewards, _ in days], draws, both=both)
        iteration += 1
        facts |= {key: float(np.mean([day[2][key] for day in days])) for key in ("reward", "completion")}
        line = ",".join(f"{facts[key]:.5g}" for key in ("reward", "completion", "explained", "entropy", "decisions"))
        with (out / "log.csv").open("a") as log:
            log.write(f"{iteration},{spent_s:.1f},{line}\n")
        save_checkpoint(checkpoint, learner, iteration, before_s + time.monotonic() - began_s)
    save_network(out / "network.npz", learner.network())
    say(f"{iteration} iterations in {spent_s:.0f} s: {out / 'network.npz'}")
    return load_network(out / "network.npz")


def main() -> None:
    """Train as told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--reward", choices=REWARDS, default="utility")
    parser.add_argument("--clone", choices=("tercel", "edf_ec", "none"), default="tercel")
    parser.add_argument("--budget-s", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        train(args.out, args.reward, args.clone, args.budget_s, args.seed)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
