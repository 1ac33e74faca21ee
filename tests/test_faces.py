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


@pytest.mark.parametrize("name", ["saccade.maps.rollout", "saccade.recording.recorder", "saccade.viz.figure"])
def test_modules_are_imported_by_path_in_a_new_process(name: str) -> None:
    code = f"import {name} as module; import types; assert type(module) is types.ModuleType, module"
    subprocess.run([sys.executable, "-c", code], check=True)


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
