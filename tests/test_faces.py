"""Packages: no exported name hides a module, and `__init__` files hold imports alone."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import saccade

ROOT = Path(saccade.__file__).parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(ROOT)], "saccade.")
    if module.name.rpartition(".")[2] != "__main__"
)
PACKAGES = sorted(path.parent for path in ROOT.rglob("__init__.py"))


@pytest.mark.parametrize("name", MODULES)
def test_a_path_leads_to_its_module(name: str) -> None:
    module = importlib.import_module(name)
    value: object = saccade
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    assert value is module, f"{name} is hidden by {value!r}"


ALONE = (
    "saccade.maps.rollout",
    "saccade.recording.recorder",
    "saccade.viz.figure",
    "saccade.viz.html",
    "saccade.viz.look_page",
    "saccade.viz.payload",
    "saccade.viz.report.page",
)


def test_a_module_imports_alone_by_its_path() -> None:
    """Each is imported in a fork of a process that has loaded nothing of saccade."""
    code = f"""
import os, sys, types
import jinja2, numpy, scipy.stats, torch, PIL.Image
for name in {ALONE}:
    assert not [loaded for loaded in sys.modules if loaded.split(".")[0] == "saccade"]
    child = os.fork()
    if not child:
        exec(f"import {{name}} as module")
        assert type(module) is types.ModuleType, module
        break
    assert os.waitpid(child, 0)[1] == 0, name
else:
    print("done")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "done\n", run.stderr


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: str(folder.relative_to(ROOT.parent)))
def test_init_files_hold_no_logic(folder: Path) -> None:
    allowed: tuple[type[ast.stmt], ...] = (ast.Import, ast.ImportFrom)
    for statement in ast.parse((folder / "__init__.py").read_text()).body:
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        is_name = isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]).startswith("__")
        is_lazy_look = folder == ROOT and isinstance(
            statement, ast.If
        )  # `saccade.look` draws: loaded when used
        assert isinstance(statement, allowed) or is_docstring or is_name or is_lazy_look, ast.unparse(
            statement
        )
