"""Collect a comparison, or single runs, in one file of benchmarks/results.

    python benchmarks/collect.py cifar10-narrow runs/cifar10-narrow
    python benchmarks/collect.py ten-percent runs/scratch runs/probe runs/fine-tuned

For one comparison, the file is its results.json without the curves. For runs, or the runs of several
comparisons, it has a row per run: the recipe keys that differ from the default, the test error and the costs;
for recurrent attention models also the test errors of one look and of the mean of ten, and the validation
error of each epoch.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saccade.config import Recipe, read_yaml
from saccade.data import load_task
from saccade.files import write_json
from saccade.results import COMPARISON, ComparisonResults, read_comparison, read_run_info, read_run_result
from saccade.training import Recurrent, measure, restore

RESULTS = Path(__file__).parent / "results"
KEPT = ("error", "loss", "localization", "parameters", "flops", "latency_ms", "train_seconds")
LOOKS = (1, 10)  # of a recurrent attention model, whose probabilities are averaged


def comparison(folder: Path) -> ComparisonResults:
    results = read_comparison(folder)
    for run in results["runs"]:
        run["curves"] = {}
    return results


def runs(folders: list[Path]) -> dict[str, Any]:
    rows, default = [], asdict(Recipe())
    single = [
        (f"{top.name}/{run.name}".removesuffix("/" + top.name), run)
        for top in folders
        for run in sorted(top.glob("runs/*")) or [top]
    ]
    for name, folder in single:
        result, info = read_run_result(folder), read_run_info(folder)
        recipe = asdict(Recipe.from_mapping(read_yaml(folder / "recipe.yaml")))
        rows.append(
            {
                "run": name,
                "recipe": {key: value for key, value in recipe.items() if value != default[key]},
                "command": info["command"],
                "images": {"train": result["task"]["train"], "test": result["task"]["test"]},
                **{key: value for key, value in result.items() if key in KEPT},
                **(looks(folder) if recipe["objective"].startswith("recurrent") else {}),
            }
        )
    return {"command": rows[0]["command"], "hardware": info["hardware"], "rows": rows}


def looks(folder: Path) -> dict[str, Any]:
    """Return the test errors of a recurrent model by the number of looks, and its validation errors."""
    classifier = restore(folder)
    assert isinstance(classifier, Recurrent)
    test = load_task(classifier.recipe.task).test
    errors = {}
    for number in LOOKS:
        classifier.num_samples = number
        errors[str(number)] = measure(classifier, test).error
    return {"looks": errors, "validation_errors": read_run_result(folder)["curves"]["val_error"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="name of the file in benchmarks/results")
    parser.add_argument("folders", nargs="+", type=Path)
    arguments = parser.parse_args()
    first, *others = arguments.folders
    is_comparison = not others and (first / COMPARISON).exists()
    result = comparison(first) if is_comparison else runs(arguments.folders)
    write_json(RESULTS / f"{arguments.name}.json", result)


if __name__ == "__main__":
    main()
