"""Train the descriptor for distant pairs: python -m registration.train --work out/distant --minutes 30

Simulated worlds of the training seeds are recorded and prepared in WORK first, which takes about 15 s a world on one
core, once. Interrupted, the same command goes on from WORK/NAME/checkpoint.npz. The losses and the growing distance can
be left out one by one; --steps in place of --minutes makes such runs comparable.

--adapt FOLDER: begin with --weights and learn from a drive's scans (KITTI .bin, in order of time) without any poses.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from registration.train.adapt import Adaptation, adapt, views_of
from registration.train.data import World, prepared_worlds
from registration.train.export import export_onnx
from registration.train.measure import BINS_M, described, inlier_ratios
from registration.train.network import Descriptor
from registration.train.run import Settings, train, weights_of
from registration.train.worlds import TRAINING_SEEDS, TUNING_SEEDS, write_worlds


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--name", default="released", help="the run's folder in WORK")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--steps", type=int, help="a budget in steps in place of minutes")
    parser.add_argument("--worlds", type=int, default=42, help="training worlds")
    parser.add_argument("--tuning-worlds", type=int, default=3, help="worlds that progress is examined on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", action="store_true", help="two scans a group, and not GCL's loss")
    parser.add_argument("--no-completion", action="store_true", help="without APR's decoder")
    parser.add_argument("--no-extend", action="store_true", help="all distances from the first step on")
    parser.add_argument("--adapt", type=Path, metavar="FOLDER")
    parser.add_argument("--weights", type=Path, metavar="CHECKPOINT", help="where --adapt begins")
    options = parser.parse_args(arguments)
    if (options.adapt is None) != (options.weights is None):
        parser.error("--adapt and --weights go together")
    folder = options.work / options.name

    def examine(network: Descriptor) -> str:
        return progress_of(network, tuning)

    if options.adapt is not None:
        views = views_of(sorted(options.adapt.glob("*.bin")))
        plan = Adaptation(steps=options.steps or Adaptation.steps, seed=options.seed, threads=options.threads)
        network = adapt(weights_of(options.weights), views, plan)
    else:
        worlds, tuning = worlds_of(options.work, options.worlds, options.tuning_worlds)
        settings = Settings(
            views=2 if options.pairs else Settings.views,
            groups=2 * Settings.groups if options.pairs else Settings.groups,
            group_weight=0.0 if options.pairs else Settings.group_weight,
            completion_weight=0.0 if options.no_completion else Settings.completion_weight,
            extend=not options.no_extend,
            budget_min=options.minutes,
            most_steps=options.steps,
            seed=options.seed,
            threads=options.threads,
        )
        network = train(settings, worlds, folder, examine=examine if tuning else None)
        print(examine(network) if tuning else "not examined")
    export_onnx(network, folder / "distant-descriptor.onnx")
    print(f"written: {folder / 'distant-descriptor.onnx'}")
    return 0


def worlds_of(work: Path, training: int, tuning: int) -> tuple[list[World], list[World]]:
    """The first worlds of the training and of the tuning seeds, recorded and prepared in a folder."""
    result = []
    for seeds, count in ((TRAINING_SEEDS, training), (TUNING_SEEDS, tuning)):
        print(f"{count} worlds of seeds from {seeds.start} on", flush=True)
        result.append(prepared_worlds(write_worlds(work / "worlds", seeds[:count]), work / "prepared"))
    return result[0], result[1]


def progress_of(network: Descriptor, worlds: list[World]) -> str:
    """A line: mean share and number of right mutual matches at each distance."""
    parts = []
    for low_m, high_m in BINS_M:
        shares, numbers = inlier_ratios(lambda view: described(network, view), worlds, low_m, high_m)
        parts.append(f"{low_m:.0f}-{high_m:.0f} m {shares.mean():.3f} ({numbers.mean():.0f})")
    return "right matches: " + ", ".join(parts)


if __name__ == "__main__":
    raise SystemExit(main())
