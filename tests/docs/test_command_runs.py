"""The guides: their commands run to the end, in the order of the page, on small stand-ins for the data.

Those that need several devices, a cluster or a download are left out.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import saccade as sc
from saccade.cli import main
from saccade.data import torchvision_sets
from saccade.data.torchvision_sets import LabeledImages
from support.guides import PAGES, commands, recipe_of_imagenet
from support.images import write_images
from support.segmentation import write_discs

#: Parts of words of the guides -> what a test can afford.
STAND_INS = {
    "/data/imagenet": "imagenet",
    "/fast/disk/cache": "cache",
    "/local/saccade": "cache",
    "resnet50": "resnet18",
    "size=224": "size=64",
    "membrane,size=128": "membrane",
    "segmentation:membrane": "segmentation:membrane,size=32",
    "unet:width=32": "unet:width=8",
    "+10%": "+1000%",  # a loaded machine measures any latency
    "$attention": "se",
}
SMALL = "white-patch:size=32,patch=[6,12],train=60,validation=20,test=20"
#: Appended to a command; of an option that is there twice, the last value counts.
SHORT = {
    "train": "--epochs 1 --batch-size 4",
    "compare": "--epochs 1 --batch-size 4 --seeds 1",
    "search": "--epochs 1 --batch-size 4 --seeds 2 --finalists 1 --budget 6runs",
}
#: What needs several devices, a cluster or a download, or does not end.
ELSEWHERE = ("--devices", "--address", "--pretrained", "--watch")


class Birds:
    """The data set of the guide: a sequence of images and labels."""

    def __init__(self, root: str) -> None:
        self.files = sorted(Path(root).glob("*/*.png"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.open(self.files[index]).convert("RGB"), index % 2


class SVHN:
    """A stand-in for the class of torchvision, with its parameters."""

    def __init__(self, split: str = "train", **_: Any) -> None:
        self.seed = len(split)

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Any, int]:
        rng = np.random.default_rng((self.seed, index))
        return rng.integers(0, 255, (32, 32, 3), dtype=np.uint8), index % 10


def small_part(name: str, _root: str, _download: bool, *, train: bool) -> LabeledImages:
    """Return 120 training or 40 test images of a data set of torchvision."""
    count, side = (120 if train else 40), (28 if "mnist" in name else 32)
    rng = np.random.default_rng(int(train))
    images = rng.integers(0, 255, (count, 3, side, side), dtype=np.uint8)
    return LabeledImages(images, np.arange(count) % 10, tuple("0123456789"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the files that the guides name, and data sets that need no download."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision_sets, "_read_part", small_part)
    monkeypatch.setattr("torchvision.datasets.SVHN", SVHN)
    for name in ("photos", "cifar"):
        write_images(Path(name), ("a", "b"), count=20)
    write_images(Path("imagenet"), ("train/a", "train/b", "val/a", "val/b"))
    write_discs(Path("membrane"), side=64)
    for name in ("cat.png", "coffee.png"):
        Image.effect_noise((80, 64), 40).convert("RGB").save(name)
    Path("imagenet.yaml").write_text(affordable(recipe_of_imagenet()))
    imports = "from __future__ import annotations\nfrom pathlib import Path\nfrom PIL import Image\n"
    Path("my_images.py").write_text(imports + inspect.getsource(Birds))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "mine"))


def affordable(text: str) -> str:
    """Return a word of a guide, or a recipe, with its stand-ins."""
    for part, stand_in in STAND_INS.items():
        text = text.replace(part, stand_in)
    return SMALL if text == "white-patch" else text


def run(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> int:
    """Run a command, shortened, and return its exit code."""
    end = SHORT.get(words[0], "").split()
    monkeypatch.setattr("sys.argv", ["saccade", *map(affordable, words), *end])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def prepare(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the folders that a page assumes or that its Python code writes."""
    if page == "training.md":
        with monkeypatch.context() as other:
            other.setenv("XDG_CONFIG_HOME", "theirs")
            assert run(other, ["train", "cifar10", "--out", "runs/theirs"]) == 0
    if page == "look.md":
        words = ["train", "white-patch", "-a", "cbam", "--out", "runs/first/runs/cbam-seed0"]
        assert run(monkeypatch, words) == 0
    if page == "deploy.md":
        assert run(monkeypatch, ["train", "white-patch", "-a", "cbam", "--out", "runs/cbam"]) == 0
        model = timm.create_model("resnet18", num_classes=5).eval()
        sc.attach(model, "cbam", example_inputs=torch.randn(2, 3, 64, 64))
        sc.save(model, "my-model")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", [name for name in PAGES if name in dict(commands())])
def test_the_commands_of_a_guide_run(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(page, monkeypatch)
    for words in (words for name, words in commands() if name == page):
        if any(option in words for option in ELSEWHERE):
            continue
        is_refused = words == ["evaluate", "runs/theirs"]  # as the page says
        assert run(monkeypatch, words) == (2 if is_refused else 0), " ".join(words)
