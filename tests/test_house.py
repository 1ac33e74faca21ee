"""The rules of the repository: a light core, frozen names, examples, and what is shipped.

Public names and commands are frozen in `tests/frozen`. To change them on purpose:

    python tests/test_house.py --freeze
"""

from __future__ import annotations

import difflib
import doctest
import importlib
import inspect
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import saccade
from saccade.testing import CHECKS, check_mechanism

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "saccade"
FILES = sorted(SOURCE.rglob("*.py"))
MECHANISMS = sorted(path.stem for path in SOURCE.glob("layers/*/[!_]*.py"))

# --------------------------------------------------------------------------------------- a light core


def load() -> tuple[float, set[str]]:
    """The seconds of work and the packages that `import saccade` adds to `import torch`, in a new process."""
    code = """
import sys, time, torch
before, start = set(sys.modules), time.process_time()
import saccade
print(time.process_time() - start, *{name.split(".")[0] for name in set(sys.modules) - before})
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds, *packages = run.stdout.split()
    return float(seconds), set(packages)


def test_importing_saccade_loads_torch_and_little_else() -> None:
    seconds: list[float] = []
    while not seconds or (seconds[-1] >= 0.15 and len(seconds) < 3):
        latest, packages = load()
        seconds.append(latest)
        assert packages - {"saccade", "torch"} <= sys.stdlib_module_names
    assert seconds[-1] < 0.15, f"import saccade took {seconds} s after torch was loaded"


# ---------------------------------------------------------------------------------------- frozen names


def public_names() -> Iterator[str]:
    """Every public name of the package, and every mechanism with its options and their defaults."""
    yield from sorted(saccade.__all__)
    for name in MECHANISMS:
        yield f"create {name}"
        for option in saccade.spec(name).options:
            yield f"create {name} {option.name}={option.default!r}"


def command_line() -> Iterator[str]:
    """Every command with its arguments and options."""
    import typer.main

    from saccade.cli import app

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[str]:
        yield " ".join(words)
        for parameter in command.params:
            is_option = parameter.param_type_name == "option"
            spellings = (
                [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name.upper()]
            )
            yield " ".join([*words, *sorted(spellings)])
        for name, inner in sorted(getattr(command, "commands", {}).items()):
            yield from walk(inner, (*words, name))

    yield from walk(typer.main.get_command(app), ("saccade",))


FROZEN = {"public_names.txt": public_names, "cli.txt": command_line}


@pytest.mark.parametrize("file", FROZEN)
def test_what_others_rely_on_is_as_it_was(file: str) -> None:
    frozen = (ROOT / "tests/frozen" / file).read_text().splitlines()
    changes = [line for line in difflib.ndiff(frozen, list(FROZEN[file]())) if line.startswith(("+", "-"))]
    assert not changes, (
        f"tests/frozen/{file} differs from the code; a removed line breaks programs that use the name. "
        "If the change is intended: python tests/test_house.py --freeze, and an entry in CHANGELOG.md\n"
        + "\n".join(changes)
    )


def freeze() -> None:
    for file, lines in FROZEN.items():
        (ROOT / "tests/frozen" / file).write_text("\n".join(lines()) + "\n")


# -------------------------------------------------------------------------------------------- examples

#: Names without an example of their own: the examples of other names show them.
WITHOUT_EXAMPLE = {"AttentionMap", "ChannelMap", "Maps", "Option", "Paper", "Spec"}
DOCUMENTED = {name: getattr(saccade, name) for name in saccade.__all__} | {
    f"mechanism {name}": saccade.spec(name).module for name in MECHANISMS
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_shows_an_example(name: str) -> None:
    documented = DOCUMENTED[name]
    if inspect.isclass(documented) and issubclass(documented, Exception):
        assert documented.__doc__
        return
    has_example = ">>>" in (documented.__doc__ or "")
    assert has_example != (name in WITHOUT_EXAMPLE), f"{name}: an example, or an entry in WITHOUT_EXAMPLE"


def test_examples_are_run() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "src" in options["testpaths"]
    assert "--doctest-modules" in options["addopts"]


def test_the_mechanism_that_contributing_shows_keeps_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    assert block is not None
    (tmp_path / "mean_gate.py").write_text(block[1])
    monkeypatch.syspath_prepend(tmp_path)
    shown = importlib.import_module("mean_gate")
    assert doctest.testmod(shown).failed == 0
    check_mechanism(shown.SPEC)


def test_the_marked_tests_exist(request: pytest.FixtureRequest) -> None:
    conftest = request.config.pluginmanager.get_plugin(str(ROOT / "tests/conftest.py"))
    assert conftest is not None
    checks = {check.__name__ for check in CHECKS}
    for part in {part for parts in conftest.MARKED.values() for part in parts} - checks:
        file, _, test = part.removeprefix("tests/").partition("::")
        path = ROOT / "tests" / file
        assert path.exists(), part
        assert not test or f"def {test.partition('[')[0]}" in path.read_text(), part


# --------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_short_and_named_for_what_they_hold(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
    assert path.stem not in ("utils", "util", "helpers", "misc", "common")


def tracked() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_package_index() -> None:
    hosts = ["pypi." + "org", "python" + "hosted.org", "download.py" + "torch.org", "index" + "-url"]
    mentions = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in tracked()
        for host in hosts
        if host.encode() in path.read_bytes()
    ]
    assert not mentions


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("saccade/")}
    present = {
        path.relative_to(SOURCE.parent).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == present
    assert "saccade/py.typed" in shipped


def test_the_source_distribution_holds_the_files_of_the_repository_alone(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as members:
        shipped = {member.name.partition("/")[2] for member in members.getmembers() if member.isfile()}
    kept = {path.relative_to(ROOT).as_posix() for path in tracked()}
    assert kept - shipped == set(), "a file that is needed to build or to test is missing"
    assert shipped - kept <= {"PKG-INFO"}, "a file that nobody reviewed would be published"


if __name__ == "__main__":
    if sys.argv[1:] != ["--freeze"]:
        sys.exit("usage: python tests/test_house.py --freeze")
    freeze()
