"""Attach CBAM by the default call to networks of other libraries, built with random weights.

    pip install transformers ultralytics segmentation-models-pytorch monai diffusers open-clip-torch
    pip install vit-pytorch
    python benchmarks/attach_networks.py

Writes benchmarks/results/attach-networks.json, from which `docs/results.py` makes the table. Libraries that
are not installed are left out. `tests/support/attach_networks.py` holds the networks, `attach_round_trip.py`
the steps.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from saccade.errors import SaccadeError
from saccade.files import write_json
from saccade.results import hardware_info

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.attach_networks import EVERY  # noqa: E402  (a folder beside)
from support.attach_round_trip import round_trip  # noqa: E402


def examine(name: str) -> dict[str, Any]:
    """Return the outcome for a network."""
    library, _, network = name.partition(" ")
    try:
        outcome = dataclasses.asdict(round_trip(EVERY[name]))
    except SaccadeError as error:
        outcome = {"refusal": str(error)}
    return {"library": library, "network": network, **outcome}


def main() -> None:
    warnings.simplefilter("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"
    rows = []
    for name in EVERY:
        if importlib.util.find_spec(name.partition(" ")[0]) is not None:
            rows.append(examine(name))
            print(rows[-1])
    result = {"command": "python benchmarks/attach_networks.py", "hardware": hardware_info(), "rows": rows}
    write_json(ROOT / "benchmarks" / "results" / "attach-networks.json", result)


if __name__ == "__main__":
    main()
