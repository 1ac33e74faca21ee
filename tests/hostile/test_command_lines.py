"""Clumsy and hostile command lines end with one sentence: no stack trace, no hang, no code run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.forked import ForkServer, Outcome
from support.hostile import QUICK, SMALL, Case, fine, recipes, refused
from support.images import write_images

_LONGEST = 1500  # characters of a message: about a screen


@pytest.fixture(scope="session")
def prepared(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the paths of the prepared files by the names that cases use."""
    root = tmp_path_factory.mktemp("prepared")
    folders = {
        "photos": ("cat", "dog"),
        "imagenet": ("train/cat", "train/dog", "val/cat", "val/dog"),
        "train_and_test": ("train/cat", "train/dog", "test/cat", "test/dog"),
        "part_names": ("val/cat", "val/dog"),
        "one_class": ("cat",),
        "markup_names": ("[bold]cat", "[/red]dog", "\x1b[31mfox"),
        "comma": ("cat", "dog"),
        "bytes_names": ("cat", "dog"),
    }
    paths = {name: root / name for name in folders} | {"comma": root / "one, two"}
    for name, classes in folders.items():
        write_images(paths[name], classes)
    for folder in paths["bytes_names"].iterdir():
        os.rename(folder / "0.png", os.fsencode(folder) + b"/\xff\xfe.png")
    for name in ("empty", "foreign", "no_permission", "folder_of_fifos", "folder_of_links"):
        paths[name] = root / name
        paths[name].mkdir()
    (paths["foreign"] / "thesis.txt").write_text("not written by saccade")
    for of_class in ("cat", "dog"):
        for name in ("folder_of_fifos", "folder_of_links"):
            (paths[name] / of_class).mkdir()
        os.mkfifo(paths["folder_of_fifos"] / of_class / "0.png")
        (paths["folder_of_links"] / of_class / "loop").symlink_to(paths["folder_of_links"])
    paths["no_permission"].chmod(0)
    for name in ("file", "binary", "image", "fifo"):
        paths[name] = root / name
    paths["file"].write_text("text")
    paths["binary"].write_bytes(bytes(range(256)) * 20)
    paths["image"] = root / "image.png"
    Image.new("RGB", (40, 30), "orange").save(paths["image"])
    os.mkfifo(paths["fifo"])
    paths["long_name"] = root / ("long" * 75)
    paths["deep_path"] = root / "/".join(["d"] * 2000)
    paths["run"], paths["comparison"] = root / "run", root / "comparison"
    for line in (
        ("train", SMALL, *QUICK.split(), "-a", "se:reduction=4", "--out", str(paths["run"])),
        (
            "compare",
            SMALL,
            *QUICK.split(),
            "-a",
            "none",
            "-a",
            "se:reduction=4",
            "--seeds",
            "2",
            "--out",
            str(paths["comparison"]),
        ),
    ):
        outcome = server.run(line, root / "work", environment={"HOME": str(root)})
        assert outcome.code == 0, outcome.error
    return {name: str(path) for name, path in paths.items()}


def sample(cases: Iterable[Case]) -> Iterator[Any]:
    """Yield the cases as parameters; `make test` runs every twentieth, `make soak` all."""
    for number, case in enumerate(cases):
        name = f"{number}-{case.line[:60]!a}"
        yield pytest.param(case, id=name, marks=[] if number % 20 == 0 else pytest.mark.soak)


def run(server: ForkServer, case: Case, prepared: dict[str, str], folder: Path) -> Outcome:
    arguments = tuple(_fill(argument, prepared) for argument in case.arguments)
    outcome = server.run(
        arguments, folder / "work", environment={"HOME": str(folder), **dict(case.environment)}
    )
    assert outcome.code is not None, f"hangs: {outcome.error}"
    assert "Traceback" not in outcome.output + outcome.error, outcome.error
    assert not [*folder.rglob("CANARY")], "code ran"
    assert not set(map(chr, [*range(9), *range(11, 32), 127])) & set(outcome.output + outcome.error)
    return outcome


def _fill(argument: str, prepared: dict[str, str]) -> str:
    for name, path in prepared.items():
        argument = argument.replace(f"{{{name}}}", path)
    return argument


def check_refused(outcome: Outcome) -> None:
    assert outcome.code == 2, (outcome.code, outcome.output, outcome.error)
    assert len(outcome.error) + len(outcome.output) <= _LONGEST, outcome.error
    assert outcome.error.strip()


@pytest.mark.parametrize("case", sample(refused()))
def test_it_is_refused_with_one_sentence(
    case: Case, server: ForkServer, prepared: dict[str, str], tmp_path: Path
) -> None:
    outcome = run(server, case, prepared, tmp_path)
    check_refused(outcome)
    assert case.names.replace("_", "-") in outcome.error.replace("_", "-").replace("\n", ""), outcome.error


@pytest.mark.parametrize("case", sample(fine()))
def test_it_works(case: Case, server: ForkServer, prepared: dict[str, str], tmp_path: Path) -> None:
    outcome = run(server, case, prepared, tmp_path)
    assert outcome.code == 0, outcome.error


@pytest.mark.soak
@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_refused_with_one_sentence(
    name: str, server: ForkServer, prepared: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipes()[name])
    for command in ("train", "compare"):
        case = Case(f"{command} --recipe {tmp_path / 'recipe.yaml'} --print-recipe")
        if name == "code":
            case = Case(f"{command} --recipe {tmp_path / 'recipe.yaml'} {QUICK}")
        check_refused(run(server, case, prepared, tmp_path))
