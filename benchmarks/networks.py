"""Record the attention of networks of other libraries, built with random weights, and count what is seen.

    pip install transformers ultralytics segmentation-models-pytorch monai diffusers
    pip install open-clip-torch vit-pytorch
    python benchmarks/networks.py

Writes benchmarks/results/networks.json, from which `docs/results.py` makes the table. Libraries that are not
installed are left out. `tests/support/external_networks.py` holds the networks.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

import saccade as sc
from saccade.attribution import legrad, relevance
from saccade.files import write_json
from saccade.maps import PairwiseMap, UnplacedWindowMap
from saccade.results import hardware_info

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.external_networks import NETWORKS, Operations, inputs_of, run  # noqa: E402  (a folder beside)


def examine(name: str) -> dict[str, Any]:
    """Return what `record`, `look` and the explanations of attention do with a network."""
    torch.manual_seed(0)
    model, side = NETWORKS[name]()
    model.eval()
    inputs = inputs_of(name, side, batch=1)
    expected = run(model, inputs)
    counter = Operations()
    with counter:
        run(model, inputs)
    maps: Any = {}
    try:
        with sc.record(model) as maps:
            found = run(model, inputs)
    except sc.NothingRecorded:
        found = expected
    kinds = [m.kind for m in maps.values()]
    library, _, network = name.partition(" ")
    images = next(iter(inputs.values()))
    return {
        "library": library,
        "network": network,
        "operations": counter.count,
        "pairs": sum(isinstance(m, PairwiseMap) for m in maps.values()),
        "unplaced": sum(isinstance(m, UnplacedWindowMap) for m in maps.values()),
        "gates": sum(not isinstance(m, PairwiseMap) for m in maps.values()),
        "kinds": sorted(set(kinds)),
        "unseen": len(getattr(maps, "unseen", ())),
        "identical": all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)),
        "look": outcome(lambda: sc.look(model, images).method),
        "relevance": outcome(lambda: bool(relevance(model, images).weights.std() > 0)),
        "legrad": outcome(lambda: bool(legrad(model, images).weights.std() > 0)),
    }


def outcome(function: Any) -> Any:
    """Return the result of a function, or the class of its refusal."""
    try:
        return function()
    except sc.SaccadeError as error:
        return type(error).__name__


def main() -> None:
    warnings.simplefilter("ignore")
    rows = []
    for name in NETWORKS:
        if importlib.util.find_spec(name.partition(" ")[0]) is not None:
            rows.append(examine(name))
            print(rows[-1])
    result = {"command": "python benchmarks/networks.py", "hardware": hardware_info(), "rows": rows}
    write_json(ROOT / "benchmarks" / "results" / "networks.json", result)


if __name__ == "__main__":
    main()
