"""Compare every mechanism that fits anywhere on one task on which attention matters: the white patch.

    python benchmarks/league.py [--source cifar10] [--seeds 3] [--out runs/league-white-patch]

White squares on images of CIFAR-10, enlarged to 64 x 64, and the small CNN with each mechanism after its
second stage; about an hour on two cores. `--source` is "cifar10" of torchvision, which may download it, or a
folder of images. The runs are those of a comparison in the folder `--out`: after an interruption, the same
command trains only the missing runs. Writes benchmarks/results/league-white-patch.json with error,
localization, cost, and p-values, which `docs/results.py` corrects with Holm's method for all mechanisms.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import saccade as sc
from collect import comparison
from saccade.config import Comparison, Recipe
from saccade.experiments import Processes, compare
from saccade.files import write_json
from saccade.grammar import format_value
from saccade.results import RunResult
from saccade.training import Progress

RESULT = Path(__file__).parent / "results" / "league-white-patch.json"


class Printer:
    """Prints a line for each finished run."""

    def started(self, recipe: Recipe, number: int, of: int) -> None:
        print(f"{number}/{of}: {recipe.attention}, seed {recipe.seed}", flush=True)

    def progressed(self, progress: Progress) -> None:
        pass

    def finished(self, results: list[RunResult]) -> None:
        print(f"error {results[-1]['error']:.3f}", flush=True)


def drop_ins() -> list[str]:
    """Return every mechanism that fits anywhere, with the options of its first example for images."""
    names = []
    for spec in map(sc.spec, sc.mechanisms()):
        if spec.drop_in:
            example = next(e for e in spec.examples if e.shapes == "B C H W" and e.output is None)
            options = ",".join(f"{option}={format_value(value)}" for option, value in example.options.items())
            names.append(f"{spec.name}:{options}" if options else spec.name)
    return names


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", default="cifar10", help="cifar10, or a folder of images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--train", type=int, default=1000, help="number of training images")
    parser.add_argument("--only", nargs="+", default=drop_ins(), help="mechanisms")
    parser.add_argument("--jobs", type=int, default=2, help="number of runs at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/league-white-patch"))
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    sizes = f"size=64,train={arguments.train},validation={arguments.train // 5},test={2 * arguments.train}"
    task = f"white-patch:source={format_value(arguments.source)},{sizes}"
    grid = Comparison(
        attentions=("none", *arguments.only),
        seeds=arguments.seeds,
        training=Recipe(task=task, epochs=arguments.epochs),
    )
    compare(grid, arguments.out, Printer(), Processes(arguments.jobs), logger="none")
    command = f"python benchmarks/league.py --source {arguments.source}"
    write_json(arguments.result, {**comparison(arguments.out), "command": command})
    print(f"written: {arguments.result}")


if __name__ == "__main__":
    main()
