"""The layers, held by import-linter and shown in docs/architecture.md, and the declared dependencies."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))

import architecture  # noqa: E402  (a script beside the page)

SOURCE = ROOT / "src" / "saccade"
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRACTS = {contract["id"]: contract for contract in PYPROJECT["tool"]["importlinter"]["contracts"]}
CORE = {re.split(r"[><=~! ]", requirement)[0] for requirement in PYPROJECT["project"]["dependencies"]}
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]
#: Modules whose distribution has another name. PyTorch for CUDA brings Triton, which nothing needs on a CPU.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "huggingface_hub": "huggingface-hub",
    "skimage": "scikit-image",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "sklearn": "scikit-learn",
    "triton": "torch",
    "yaml": "pyyaml",
}

#: The extra that a package or a file needs, by its path in the source; all others need torch alone.
NEEDED = {
    "attribution": "report",
    "metrics": "vision",
    "models": "vision",
    "models/pretrained.py": "pretrained",
    "models/segmentation_model.py": "segmentation",
    "data": "vision",
    "data/huggingface.py": "huggingface",
    "config": "train",
    "results": "train",
    "training": "train",
    "training/loggers.py": "loggers",
    "integrations/transformers.py": "huggingface",
    "exporting": "export",
    "sharing": "vision",
    "sharing/card.py": "report",
    "sharing/hub.py": "report",
    "experiments": "train",
    "search": "search",
    "experiments/executors/ray.py": "cluster",
    "viz": "report",
    "cli": "train",
    "ops/loops.py": "fast",
}


def third_party(source: str) -> set[str]:
    """The top-level modules that code imports, except saccade and the standard library."""
    return set(imports(ast.parse(source))) - {"saccade", "_typeshed", *sys.stdlib_module_names}


def undeclared(path: str, source: str) -> set[str]:
    """The third-party modules that a file imports and that neither the core nor its extra declares."""
    extra = NEEDED.get(path, NEEDED.get(path.split("/")[0]))
    declared = CORE | (distributions(extra) if extra else set())
    return {name for name in third_party(source) if DISTRIBUTIONS.get(name, name) not in declared}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                yield from (alias.name.split(".")[0] for alias in aliases)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.split(".")[0]
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(module))]):
                yield module.split(".")[0]


def distributions(extra: str) -> set[str]:
    """The distributions of an extra, and of the extras that it contains."""
    names: set[str] = set()
    for requirement in EXTRAS[extra]:
        if inner := re.fullmatch(r"saccade\[(.*)\]", requirement):
            names |= {name for part in inner[1].split(",") for name in distributions(part)}
        else:
            names.add(re.split(r"[><=~! ]", requirement)[0].lower())
    return names


# ---------------------------------------------------------------------------------------------- layers


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the package in a folder against the contracts of pyproject.toml."""
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    arguments = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


#: A file, the lines to add to it, and the contract that they violate.
VIOLATIONS = (
    ("errors.py", "from saccade.maps import SpatialMap", "layers"),
    ("grammar.py", "from saccade.maps import Tap", "layers"),
    ("maps/tap.py", "import saccade", "layers"),
    ("ops/gates.py", "from saccade.layers.registry import create", "layers"),
    ("layers/registry.py", "from saccade.recording import record", "layers"),
    ("models/small_cnn.py", "from saccade.recording import record", "layers"),
    ("models/small_cnn.py", "from ..data import Task", "layers"),
    ("metrics/checks.py", "def f():\n    from saccade import data", "layers"),
    ("recording/recorder.py", "from saccade.testing import check_mechanism", "layers"),
    ("data/task.py", "if TYPE_CHECKING:\n    from saccade.training import train", "layers"),
    ("training/run.py", "from saccade.viz import look", "layers"),
    ("helpers.py", "", "layers"),
    ("maps/tap.py", "import numpy", "core"),
    ("layers/channel/se.py", "import scipy.stats", "core"),
    ("experiments/grid.py", "import lightning.pytorch", "lightning"),
    ("training/run.py", "import ray", "ray"),
    ("metrics/checks.py", "from captum.attr import LayerGradCam", "captum"),
    ("experiments/grid.py", "import optuna", "search"),
    ("viz/html.py", "import onnxruntime", "onnx"),
    ("experiments/grid.py", "from saccade.search import search", "layers"),
)


@pytest.fixture(scope="module")
def violated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A package with all violations, and what is reported of it, by contract."""
    folder = tmp_path_factory.mktemp("violations")
    shutil.copytree(SOURCE, folder / "saccade", ignore=shutil.ignore_patterns("__pycache__"))
    for file, line, _ in VIOLATIONS:
        with (folder / "saccade" / file).open("a") as code:
            code.write(f"\n{line}\n")
    result = lint(folder)
    assert result.returncode == 1
    ids = {each["name"]: name for name, each in CONTRACTS.items()}
    titles = "|".join(map(re.escape, ids))
    _, *parts = re.split(rf"^({titles})$", result.stdout, flags=re.MULTILINE)
    return folder / "saccade", {ids[title]: text for title, text in zip(parts[::2], parts[1::2], strict=True)}


@pytest.mark.parametrize(("file", "line", "contract"), VIOLATIONS)
def test_the_contract_sees_a_violation(
    file: str, line: str, contract: str, violated: tuple[Path, dict[str, str]]
) -> None:
    """The report names the module and the number of the line that was added."""
    source, reports = violated
    module = f"saccade.{file.removesuffix('.py').replace('/', '.')}"
    if not line:
        assert f"- {module}\n" in reports[contract]
        return
    number = (source / file).read_text().splitlines().index(line.splitlines()[-1]) + 1
    assert re.search(rf"{re.escape(module)}( -> \S+)? \(l\.{number}\)", reports[contract]), reports[contract]


def test_the_package_keeps_the_contracts() -> None:
    result = lint(SOURCE.parent)
    assert result.returncode == 0, result.stdout


def test_the_architecture_page_shows_the_contracts() -> None:
    page, contracts = architecture.PAGE.read_text(), architecture.contracts()
    assert page == architecture.updated(page, contracts), "run python docs/architecture.py"
    assert all(layer in page for layer in CONTRACTS["layers"]["layers"])
    assert all(contract["name"] in page for contract in contracts[1:])
    assert set(architecture.CONTENTS) <= set(CONTRACTS["layers"]["layers"])
    contracts[0] = contracts[0] | {"layers": contracts[0]["layers"][1:]}
    assert page != architecture.updated(page, contracts)


def test_the_pages_for_contributors_name_places_that_exist() -> None:
    invented = {"mechanisms/", "utils.py", "layers/spatial/mean_gate.py"}
    for page in (ROOT / "docs/architecture.md", ROOT / "CONTRIBUTING.md"):
        named = {*re.findall(r"`([\w./]+(?:/|\.py))`", page.read_text())} - invented
        assert len(named) > 20
        for path in (path for path in named if "DOMAIN" not in path):
            assert any((folder / path).exists() for folder in (ROOT, SOURCE, SOURCE / "ops")), path


def test_the_tree_shows_every_part() -> None:
    tree = (ROOT / "docs/architecture.md").read_text().partition("## The tree")[2].partition("tests/")[0]
    parts = [path for path in SOURCE.iterdir() if not path.name.startswith("__") and path.name != "py.typed"]
    assert [path.name for path in parts if path.name not in tree] == []


def test_a_comparison_enters_few_modules_before_its_first_step() -> None:
    page = architecture.PAGE.read_text()
    walk = page[page.index("## The trip of a comparison") : page.index("9. After training")]
    modules = {*re.findall(r"`([a-z_/]+\.py)`", walk)}
    assert {"cli/compare.py", "experiments/grid.py", "training/run.py"} <= modules
    assert all((SOURCE / module).is_file() for module in modules)
    assert len(modules) <= 10


def test_the_core_may_import_no_third_party_package_but_torch() -> None:
    imported = {name for path in SOURCE.rglob("*.py") for name in third_party(path.read_text())}
    assert set(CONTRACTS["core"]["forbidden_modules"]) == imported - {"torch"}


# ---------------------------------------------------------------------------------------- dependencies


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_third_party_module_is_declared_in_the_extra_of_its_package(path: Path) -> None:
    assert not undeclared(path.relative_to(SOURCE).as_posix(), path.read_text())


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("maps/tap.py", "import numpy"),
        ("metrics/sanity.py", "import jinja2"),
        ("data/folder.py", "def f():\n    from datasets import load_dataset"),
        ("experiments/grid.py", "import ray"),
        ("viz/html.py", "import importlib\nimportlib.import_module('bokeh.plotting')"),
    ],
)
def test_an_undeclared_module_is_seen(path: str, source: str) -> None:
    assert undeclared(path, source)


def test_the_paths_that_need_an_extra_exist() -> None:
    assert all((SOURCE / path).exists() for path in NEEDED)
    assert set(NEEDED.values()) <= set(EXTRAS)


def test_the_extra_all_holds_every_other_extra_but_those_of_contributors() -> None:
    others = EXTRAS.keys() - {"dev", "docs"}
    assert {name for extra in others for name in distributions(extra)} == distributions("all")


def test_every_extra_that_a_text_names_exists() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    named = {
        extra
        for path in [*SOURCE.rglob("*.py"), *pages]
        for extras in re.findall(r"saccade\[([a-z,]+)\]", path.read_text())
        for extra in extras.split(",")
    }
    assert "report" in named
    assert named <= set(EXTRAS)


def test_the_version_is_in_one_place() -> None:
    assert "version" not in PYPROJECT["project"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "src/saccade/__init__.py"
