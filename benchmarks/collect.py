"""Gather a comparison, or single runs, into one file of benchmarks/results.

    python benchmarks/collect.py cifar10-narrow runs/cifar10-narrow
    python benchmarks/collect.py ten-percent runs/scratch runs/probe runs/fine-tuned

A comparison is taken as its results.json says, without the curves; of runs, and of all runs of a comparison
if there are several folders, the keys of the recipe that are not the default, the test error, and what it
cost; of a recurrent attention model also the test error of a single look.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saccade.config.recipe import Recipe, read_yaml
from saccade.data import load_task
from saccade.files import write_json
from saccade.training.evaluate import evaluate
from saccade.training.objectives.recurrent import Recurrent
from saccade.training.restore import restore

RESULTS = Path(__file__).parent / "results"
KEPT = ("error", "loss", "localization", "parameters", "flops", "latency_ms", "train_seconds")


def comparison(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    runs = [{key: value for key, value in run.items() if key != "curves"} for run in found["runs"]]
    return {**found, "runs": runs}


def runs(folders: list[Path]) -> dict[str, Any]:
    rows, default = [], asdict(Recipe())
    single = [
        (f"{top.name}/{run.name}".removesuffix("/" + top.name), run)
        for top in folders
        for run in sorted(top.glob("runs/*")) or [top]
    ]
    for name, folder in single:
        result = json.loads((folder / "result.json").read_text())
        origin = json.loads((folder / "run.json").read_text())
        recipe = asdict(Recipe.from_mapping(read_yaml(folder / "recipe.yaml")))
        rows.append(
            {
                "run": name,
                "recipe": {key: value for key, value in recipe.items() if value != default[key]},
                "command": origin["command"],
                "images": {part: result["task"][part] for part in ("train", "test")},
                **{key: result[key] for key in KEPT},
                **({"one_look": one_look(folder)} if recipe["method"].startswith("recurrent") else {}),
            }
        )
    return {"command": rows[0]["command"], "hardware": origin["hardware"], "rows": rows}


def one_look(folder: Path) -> float:
    classifier = restore(folder)
    assert isinstance(classifier, Recurrent)
    classifier.num_samples = 1
    return evaluate(classifier, load_task(classifier.recipe.task).test)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="of the file in benchmarks/results")
    parser.add_argument("folders", nargs="+", type=Path)
    asked = parser.parse_args()
    is_comparison = len(asked.folders) == 1 and (asked.folders[0] / "results.json").exists()
    write_json(
        RESULTS / f"{asked.name}.json", comparison(asked.folders[0]) if is_comparison else runs(asked.folders)
    )


if __name__ == "__main__":
    main()
