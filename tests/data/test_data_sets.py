"""Third-party data sets: by the name of a Python class, and of the library `datasets` of Hugging Face."""

from __future__ import annotations

import importlib
import importlib.util
import io
import shutil
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from typer.testing import CliRunner

from saccade.cli import app, main
from saccade.data import BadImage, load_folder, load_python, load_task, with_options
from saccade.data.python import class_parameters
from saccade.data.task import Split, Task
from saccade.errors import BadData, BadOption, SaccadeError, UnknownName
from support.errors import raises

# ----------------------------------------------------------------------------------------- classes by name

#: Data sets as a user might write them. The gray level of an image encodes its part and its number.
OWN = '''
import numpy as np
import torch
from PIL import Image

CALLS = []


def gray(level, kind="pil"):
    pixels = np.full((12, 10, 3), level, np.uint8)
    if kind == "pil":
        return Image.fromarray(pixels)
    if kind == "tensor":
        return torch.from_numpy(pixels).permute(2, 0, 1)
    if kind == "floats":
        return torch.from_numpy(pixels).permute(2, 0, 1) / 255
    return pixels if kind == "array" else pixels[..., 0]


class Whole:
    """One set."""

    def __init__(self, count=20, kind="pil"):
        self.count, self.kind = count, kind

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return gray(index, self.kind), index % 2


class ByTrain(Whole):
    class_to_idx = {"dog": 1, "cat": 0}

    def __init__(self, train, root="here", **options):
        CALLS.append({"train": train, "root": root})
        super().__init__(**options)
        self.offset = 0 if train else 100

    def __getitem__(self, index):
        return gray(self.offset + index), np.int64(index % 2)


class BySplit(Whole):
    classes = (("cat", "tomcat"), "dog")
    known = {"train": 0, "valid": 50, "test": 100}

    def __init__(self, split):
        super().__init__()
        self.offset = self.known[split]

    def __getitem__(self, index):
        return gray(self.offset + index), torch.tensor(index % 2)


class WithoutTest(BySplit):
    known = {"trainval": 0, "val": 50}


class Standard(Whole):
    def __init__(self, root, download=False, transform=None):
        CALLS.append({"root": root, "download": download})
        super().__init__()


class Floats(Whole):
    def __getitem__(self, index):
        return gray(index), float(index % 2)


class Dicts(Whole):
    def __getitem__(self, index):
        return {"image": gray(index), "label": 0}


class Stripes(Whole):
    def __getitem__(self, index):
        return torch.zeros(7, 12, 10), 0


class Normalized(Whole):
    def __getitem__(self, index):
        return torch.full((3, 12, 10), -1.5), 0


class Words(Whole):
    def __getitem__(self, index):
        return "photo.jpg", 0


class Longs(Whole):
    def __getitem__(self, index):
        return np.zeros((4, 4), np.int64), 0


class Numbered(Whole):
    def __getitem__(self, index):
        return gray(index), index % 2 + 10_000_000


class Holes(Whole):
    def __getitem__(self, index):
        if index == 7:
            raise OSError("disk error")
        return gray(index), index % 2


class Endless:
    def __iter__(self):
        yield 1


class Failing(ByTrain):
    def __init__(self):
        raise RuntimeError("no such\\n file")


class Others(ByTrain):
    """Passes on what it does not know."""

    def __init__(self, subset, **options):
        super().__init__(**options)


class Anything:
    def __init__(self, **options):
        self.options = options

THING = 3
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_images.py").write_text(OWN)
    (folder / "own_broken.py").write_text("import nothing_of_this_name")
    (folder / "own_failing.py").write_text("1 / 0")
    sys.path.insert(0, str(folder))
    yield importlib.import_module("own_images")
    sys.path.remove(str(folder))


def levels(split: Split) -> list[int]:
    """The gray levels of images of one level each."""
    assert (split.images == split.images[:, :1, :1, :1]).all()
    gray: list[int] = split.images[:, 0, 0, 0].tolist()
    return gray


def counts(task: Task) -> list[int]:
    return [len(split) for split in (task.train, task.validation, task.test)]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("kind", ["pil", "tensor", "floats", "array", "gray"])
def test_one_set_of_images_of_any_kind_is_split_by_shares(kind: str) -> None:
    task = load_task(f"python:own_images.Whole,kind={kind},val_fraction=0.2")
    assert task.shape == (3, 10, 10)
    assert counts(task) == [12, 4, 4]
    assert task.classes == ("0", "1")
    everything = [levels(split) for split in (task.train, task.validation, task.test)]
    assert sorted(chain(*everything)) == [*range(20)]
    for split, of_split in zip((task.train, task.validation, task.test), everything, strict=True):
        assert split.labels.tolist() == [level % 2 for level in of_split]
    other = load_python("own_images.Whole", val_fraction=0.2, seed=1)
    assert everything != [levels(split) for split in splits(other)]


def splits(task: Task) -> tuple[Split, Split, Split]:
    return task.train, task.validation, task.test


def test_parts_by_train(own: Any) -> None:
    own.CALLS.clear()
    task = load_task("python:own_images.ByTrain,root=there")
    assert own.CALLS == [{"train": True, "root": "there"}, {"train": False, "root": "there"}]
    assert counts(task) == [18, 2, 20]
    assert levels(task.test) == [*range(100, 120)]
    assert task.classes == ("cat", "dog")
    chosen = load_task("python:own_images.ByTrain,train=true")
    assert counts(chosen) == [16, 2, 2]
    assert max(levels(chosen.test)) < 20


@pytest.mark.usefixtures("own")
def test_parts_by_split() -> None:
    task = load_task("python:own_images.BySplit,size=6,max_samples=5")
    assert task.shape == (3, 6, 6)
    assert [min(levels(split)) // 50 for split in splits(task)] == [0, 1, 2]
    assert counts(task) == [5, 5, 5]
    assert task.classes == ("cat, tomcat", "dog")
    without = load_task("python:own_images.WithoutTest")
    assert counts(without) == [18, 2, 20]
    assert levels(without.test) == [*range(50, 70)]
    assert counts(load_task("python:own_images.BySplit,split=test")) == [16, 2, 2]


def test_root_and_download_for_those_who_take_them(own: Any) -> None:
    own.CALLS.clear()
    load_task("python:own_images.Standard")
    load_task("python:own_images.Standard,root=~/data,download=false")
    home = str(Path("~").expanduser())
    assert [
        {"root": f"{home}/.cache/saccade", "download": True},
        {"root": f"{home}/data", "download": False},
    ] == own.CALLS
    with raises(UnknownName, owner="own_images.BySplit", value="root"):
        load_task("python:own_images.BySplit,root=data")


def test_options_that_are_passed_on_are_those_of_the_base(own: Any) -> None:
    assert [*(class_parameters(own.Others) or {})] == ["subset", "train", "root", "count", "kind"]
    assert class_parameters(own.Anything) is None
    assert counts(load_task("python:own_images.Others,subset=1,count=10")) == [9, 1, 10]
    with raises(UnknownName, owner="own_images.Others", value="cuont"):
        load_task("python:own_images.Others,subset=1,cuont=10")


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("text", "kind", "fields"),
    [
        ("python", BadOption, {"owner": "python", "option": "name"}),
        ("python:Images", BadOption, {"owner": "python", "option": "name", "value": "Images"}),
        ("python:no_such.Images", BadData, {"option": "name", "value": "no_such.Images"}),
        ("python:own_images.inner.Images", BadData, {"value": "own_images.inner.Images"}),
        ("python:own_broken.Images", BadData, {"option": "name", "value": "own_broken.Images"}),
        ("python:own_failing.Images", BadData, {"option": "name", "value": "own_failing.Images"}),
        ("python:own_images.BySplt", UnknownName, {"owner": "own_images", "value": "BySplt"}),
        ("python:own_images.THING", BadData, {"option": "name", "value": "own_images.THING"}),
        ("python:own_images.Whole,sise=3", UnknownName, {"owner": "own_images.Whole", "value": "sise"}),
        ("python:own_images.Whole,size=0", BadOption, {"option": "size", "value": 0}),
        ("python:own_images.Whole,workers=0", BadOption, {"option": "workers", "value": 0}),
        ("python:own_images.Whole,val_fraction=0.5", BadOption, {"option": "val_fraction", "value": 0.5}),
        ("python:own_images.Whole,options=3", UnknownName, {"value": "options"}),
        ("python:own_images.Others", BadOption, {"owner": "own_images.Others", "option": "subset"}),
        ("python:own_images.Failing", BadData, {"owner": "own_images.Failing", "value": {}}),
        ("python:own_images.Endless", BadData, {"option": "name", "value": "own_images.Endless"}),
        ("python:own_images.Whole,count=0", BadData, {"owner": "python:own_images.Whole", "value": 0}),
        ("python:own_images.Dicts", BadData, {"value": "dict"}),
        ("python:own_images.Floats", BadData, {"value": 0.0}),
        ("python:own_images.Stripes", BadData, {"value": (7, 12, 10)}),
        ("python:own_images.Normalized", BadData, {"value": (-1.5, -1.5)}),
        ("python:own_images.Words", BadData, {"value": "str"}),
        ("python:own_images.Longs", BadData, {"value": "int64"}),
        ("python:own_images.Numbered", BadData, {"option": "label", "value": 10_000_001}),
        ("python:own_images.Holes", BadData, {"value": 7}),
    ],
)
def test_unusable_data_raise_one_sentence(
    text: str, kind: type[SaccadeError], fields: dict[str, Any]
) -> None:
    with raises(kind, **fields) as raised:
        load_task(text)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("workers", [1, 3])
def test_an_image_that_cannot_be_read_is_left_out(workers: int) -> None:
    task = load_task(f"python:own_images.Holes,on_bad_image=skip,workers={workers}")
    assert sum(counts(task)) == 19
    assert task.skipped == ("python:own_images.Holes, train image 7 cannot be read: disk error",)
    with raises(BadData, value=0.0):  # the image is readable
        load_task("python:own_images.Floats,on_bad_image=skip")


def test_a_data_set_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SVHN, whose files are Matlab's, of images (H, W, C, N); the number 0 is written as 10."""
    rng = np.random.default_rng(0)
    stored = {}
    for part, count in (("train", 20), ("test", 6)):
        pixels = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10)[:, None]
        scipy.io.savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels, "y": np.where(labels, labels, 10)})
        stored[part] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)))
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *_: True)
    task = load_task(f"python:torchvision.datasets.SVHN,root={tmp_path},download=false")
    assert counts(task) == [18, 2, 6]
    assert torch.equal(task.test.images, stored["test"])
    assert task.test.labels.tolist() == [*range(6)]
    both = torch.cat([task.train.images, task.validation.images])
    assert torch.equal(both.flatten(1).unique(dim=0), stored["train"].flatten(1).unique(dim=0))


def test_a_folder_of_torchvision_is_a_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(12):
        file = tmp_path / "ab"[index % 2] / f"{index}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(file)
    theirs = load_task(f"python:torchvision.datasets.ImageFolder,root={tmp_path},size=16")
    ours = load_folder(str(tmp_path), size=16)
    assert theirs.classes == ours.classes == ("a", "b")
    rows = [
        torch.cat([torch.cat([split.labels[:, None], split.images.flatten(1)], 1) for split in splits(task)])
        for task in (theirs, ours)
    ]
    assert torch.equal(rows[0].unique(dim=0), rows[1].unique(dim=0))


# ------------------------------------------------------------------------------------------- Hugging Face

#: The stand-in, and the library itself on a machine that has it.
LIBRARIES = ["support.hugging_face", *(["datasets"] if importlib.util.find_spec("datasets") else [])]


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    module = importlib.import_module(request.param)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 20), (level,) * 3).save(file, "png")
    return file.getvalue()


def rows(library: Any, count: int, offset: int = 0, *, broken: int | None = None) -> Any:
    """Return images whose gray level is their number plus an offset; the classes alternate."""
    whole = [png(offset + number) for number in range(count)]
    stored = [file[:50] if number == broken else file for number, file in enumerate(whole)]
    images = [{"bytes": file, "path": None} for file in stored]
    columns = {
        "picture": images,
        "kind": [number % 2 for number in range(count)],
        "word": ["tree" if number % 2 else "house" for number in range(count)],
        "number": [number % 2 for number in range(count)],
        "raw": whole,
    }
    features = {
        "picture": library.Image(),
        "kind": library.ClassLabel(names=["cat", "dog"]),
        "word": library.Value("string"),
        "number": library.Value("int64"),
        "raw": library.Value("binary"),
    }
    return library.Dataset.from_dict(columns, features=library.Features(features))


def test_sets_that_were_saved_to_disk(library: Any, tmp_path: Path) -> None:
    rows(library, 20).save_to_disk(tmp_path / "one")
    task = load_task(f"huggingface:{tmp_path}/one,workers=3")
    assert counts(task) == [16, 2, 2]
    assert task.classes == ("cat", "dog")
    assert task.shape == (3, 20, 20)
    assert sorted(chain(*map(levels, splits(task)))) == [*range(20)]
    for split in splits(task):
        assert split.labels.tolist() == [level % 2 for level in levels(split)]
    parts = {"train": rows(library, 10), "validation": rows(library, 4, 50), "test": rows(library, 6, 100)}
    library.DatasetDict(parts).save_to_disk(tmp_path / "three")
    task = load_task(f"huggingface:{tmp_path}/three,size=8")
    assert task.name == "huggingface:three"
    assert [*map(levels, splits(task))] == [[*range(10)], [*range(50, 54)], [*range(100, 106)]]
    library.DatasetDict(train=parts["train"], val=parts["validation"]).save_to_disk(tmp_path / "two")
    task = load_task(f"huggingface:{tmp_path}/two")
    assert counts(task) == [9, 1, 4]
    assert levels(task.test) == [*range(50, 54)]


def test_columns_by_kind_and_by_name(library: Any, tmp_path: Path) -> None:
    rows(library, 20).to_parquet(tmp_path / "set.parquet")
    place = f"huggingface:{tmp_path}/set.parquet"
    whole = load_task(place)
    assert torch.equal(load_task(f"{place},image=raw").train.images, whole.train.images)
    by_word = load_task(f"{place},label=word")
    assert by_word.classes == ("house", "tree")
    assert torch.equal(by_word.train.labels, whole.train.labels)
    assert load_task(f"{place},label=number").classes == ("0", "1")
    with raises(UnknownName, owner=f"{tmp_path}/set.parquet", value="kinds"):
        load_task(f"{place},label=kinds")
    rows(library, 20).select_columns(["raw", "number"]).to_parquet(tmp_path / "plain.parquet")
    with raises(BadOption, option="image", choices=("raw", "number")):
        load_task(f"huggingface:{tmp_path}/plain.parquet")
    two = rows(library, 4).cast_column("raw", library.Image())
    two.to_parquet(tmp_path / "two.parquet")
    with raises(BadOption, option="image", choices=("picture", "raw")):
        load_task(f"huggingface:{tmp_path}/two.parquet")


def test_an_image_cut_short_in_a_row(library: Any, tmp_path: Path) -> None:
    rows(library, 20, broken=3).save_to_disk(tmp_path / "cut")
    with raises(BadImage, owner="huggingface:cut, train image 3"):
        load_task(f"huggingface:{tmp_path}/cut")
    task = load_task(f"huggingface:{tmp_path}/cut,on_bad_image=skip")
    assert sum(counts(task)) == 19
    assert len(task.skipped) == 1


def test_a_cache_of_rows(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, cache = f"huggingface:{tmp_path}/set,seed=3", tmp_path / "cache"
    rows(library, 20).save_to_disk(tmp_path / "set")
    plain = load_task(place)
    written = load_task(f"{place},cache={cache}")
    assert len(kept := {*cache.glob("set-*")}) == 3
    with monkeypatch.context() as without:
        without.setattr("saccade.data.map_style.resize_and_crop", None)
        read = load_task(f"{place},cache={cache}")
    for task in (written, read):
        for split, expected in zip(splits(task), splits(plain), strict=True):
            assert torch.equal(split.images, expected.images)
            assert torch.equal(split.labels, expected.labels)
        assert all(map(torch.equal, task.normalization(), plain.normalization()))
    load_task(f"{place},cache={cache},label=word")
    assert len(kept) + 3 == len(kept := {*cache.glob("set-*")})
    rows(library, 20, 100).save_to_disk(tmp_path / "other")
    shutil.rmtree(tmp_path / "set")
    (tmp_path / "other").rename(tmp_path / "set")
    assert min(levels(load_task(f"{place},cache={cache}").train)) >= 100
    assert len(kept) + 3 == len([*cache.glob("set-*")])


def test_sets_that_cannot_be_loaded(library: Any, tmp_path: Path) -> None:
    with raises(BadData, option="path", value=f"{tmp_path}/nowhere"):
        load_task(f"huggingface:{tmp_path}/nowhere")
    (tmp_path / "set.txt").write_text("")
    with raises(BadData, option="path", choices=(".parquet", ".arrow")):
        load_task(f"huggingface:{tmp_path}/set.txt")
    parts = {"one": rows(library, 4), "two": rows(library, 4)}
    library.DatasetDict(parts).save_to_disk(tmp_path / "named")
    with raises(BadData, option="path", choices=("one", "two")):
        load_task(f"huggingface:{tmp_path}/named")


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with raises(BadOption, owner="huggingface", value="datasets"):
        load_task("huggingface:set")


# --------------------------------------------------------------------------------------- the command line


def recipe(*words: str) -> str:
    """What --print-recipe prints, or the sentence with which the command fails."""
    done = CliRunner().invoke(app, [*words, "--print-recipe"])
    if isinstance(done.exception, SaccadeError):
        return str(done.exception)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("command", ["train", "compare"])
def test_options_of_the_task_have_names_of_their_own(command: str, tmp_path: Path) -> None:
    printed = recipe(command, "cifar10:size=16", "--image-size", "64", "--max-samples", "9", "--no-download")
    assert "task: cifar10:size=64,max_samples=9,download=False\n" in printed
    printed = recipe(command, "mnist", "--data-root", str(tmp_path), "--download")
    assert f"task: mnist:root={tmp_path},download=True\n" in printed
    assert "task: white-patch:size=32\n" in recipe(command, "--image-size", "32")
    assert "unknown option of white-patch 'max_samples'; choose from" in recipe(command, "--max-samples", "3")
    (tmp_path / "recipe.yaml").write_text("task: folder:photos,max_samples=3\n")
    also = ["-a", "none"] if command == "compare" else []
    printed = recipe(command, "--recipe", str(tmp_path / "recipe.yaml"), "--max-samples", "7", *also)
    assert "task: folder:photos,max_samples=7\n" in printed
    printed = recipe(
        command, "folder:photos", "--on-bad-image", "skip", "--precision", "bf16-mixed", "--compile", *also
    )
    assert "task: folder:photos,on_bad_image=skip\n" in printed
    assert "precision: bf16-mixed\ncompile: true\n" in printed
    if command == "train":
        assert "task: folder:photos,workers=3\n" in recipe(command, "folder:photos", "--workers", "3")
    assert "unknown option of folder 'download'" in recipe(command, "folder:photos", "--download")


def test_text_that_options_went_into_is_read_as_meant() -> None:
    text = with_options("white-patch:patch=[4, 8],root=a", {"root": "1e3", "size": 32})
    assert text == "white-patch:patch=[4, 8],root='1e3',size=32"
    assert with_options("python:own.Images,root=a", {"root": "b"}) == "python:own.Images,root=b"
    assert with_options("digits", {}) == "digits"


def test_a_class_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images_of_mine.py").write_text("class Mine: pass")
    monkeypatch.chdir(tmp_path)
    # As for an installed script, on whose path the current folder is not.
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    monkeypatch.setattr(sys, "argv", ["saccade", "train", "python:images_of_mine.Mien"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "saccade: unknown class of images_of_mine 'Mien'; did you mean 'Mine'?\n"
    )
