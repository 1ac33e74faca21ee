"""Files and folders that the cases name in braces."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from hostile.cases import QUICK, SMALL
from support.forked import ForkServer


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


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
    rng = np.random.default_rng(0)
    paths = {name: root / name for name in folders} | {"comma": root / "one, two"}
    for name, classes in folders.items():
        for of_class in classes:
            folder = paths[name] / of_class
            folder.mkdir(parents=True)
            for number in range(12):
                pixels = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
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
    Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(paths["image"])
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
        outcome = server.run(line, root / "work")
        assert outcome.code == 0, outcome.error
    return {name: str(path) for name, path in paths.items()}
