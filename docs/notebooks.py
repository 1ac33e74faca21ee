"""Notebooks of the site: the scripts of examples/ that begin with a text cell.

They are in the percent format of jupytext, and are executed when the site is built. No notebook is committed.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import jupytext
import nbclient
import nbconvert
from traitlets.config import Config

EXAMPLES = Path(__file__).parent.parent / "examples"
_TEXT_CELL = "# %% [markdown]"  # the first line of a notebook
_ABOUT = "*Made from `examples/{0}.py`, which runs as a script, too. [Download the notebook]({0}.ipynb).*\n\n"


def scripts() -> list[Path]:
    """Return the scripts that are notebooks."""
    paths = sorted(EXAMPLES.glob("*.py"))
    return [path for path in paths if path.read_text().startswith(_TEXT_CELL)]


def pages(*, execute: bool) -> dict[str, str | bytes]:
    """Return the files of all notebooks by their paths in the site.

    Args:
        execute: Whether to run the cells. Otherwise, the pages hold texts and code alone.
    """
    files: dict[str, str | bytes] = {}
    for path in scripts():
        files |= page(path.stem, path.read_text(), execute)
    return files


@functools.cache  # `mkdocs serve` builds the site again after each change
def page(name: str, script: str, execute: bool) -> dict[str, str | bytes]:
    """Return the page of a script, its pictures, and the notebook without outputs to download."""
    notebook = jupytext.reads(script, fmt="py:percent")
    notebook.metadata["language_info"] = {"name": "python"}
    files: dict[str, str | bytes] = {f"notebooks/{name}.ipynb": jupytext.writes(notebook, fmt="ipynb")}
    if execute:
        with tempfile.TemporaryDirectory() as folder:
            sockets = {"transport": "ipc", "ip": f"{folder}/kernel"}  # in the folder: no port is opened
            config = Config({"KernelManager": sockets})
            client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", config=config)
            client.execute(cwd=folder)
    for cell in notebook.cells:  # warnings of libraries name paths of this machine
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    text, resources = nbconvert.MarkdownExporter().from_notebook_node(notebook, {"unique_key": name})
    text = text.replace("![png](", "![Picture that the cell above draws](")
    title, text = text.split("\n", 1)
    files[f"notebooks/{name}.md"] = f"{title}\n\n{_ABOUT.format(name)}{text}"
    return files | {f"notebooks/{picture}": data for picture, data in resources["outputs"].items()}
