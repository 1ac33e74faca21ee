"""Folders that earlier versions wrote: this version reads them, and the models compute the same.

Each folder in `tests/frozen/models` holds a model and its `output.json`, the output for `inputs`. They are
never written again: a new format gets a new folder.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import saccade as sc

FOLDERS = sorted((Path(__file__).parents[1] / "frozen/models").iterdir())


def inputs() -> torch.Tensor:
    """Return two images that need no random numbers: pixels from 0 to 255."""
    return torch.arange(2 * 3 * 28 * 28).reshape(2, 3, 28, 28).mul(37).remainder(256).float()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_of_an_earlier_version_loads(folder: Path) -> None:
    model = sc.load(folder).eval()
    expected = torch.tensor(json.loads((folder / "output.json").read_text()))
    with torch.no_grad(), sc.record(model) as maps:
        torch.testing.assert_close(model(inputs()), expected, rtol=1e-4, atol=1e-5)
    assert maps


def test_the_first_formats_are_kept() -> None:
    assert {"saved-schema1", "run-schema2"} <= {folder.name for folder in FOLDERS}
