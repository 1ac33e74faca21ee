"""Task `huggingface`: image sets of the library `datasets` of Hugging Face."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saccade.data.checks import SPLIT_NAMES, OnBadImage, ReadingOptions
from saccade.data.images import open_image
from saccade.data.map_style import task_from_datasets
from saccade.data.task import Task
from saccade.errors import BadData, BadOption, UnknownName

_FILES = {".parquet": "parquet", ".arrow": "arrow"}
_TASK = "huggingface"


def load_huggingface(
    path: str,
    image: str | None = None,
    label: str | None = None,
    config: str | None = None,
    size: int | None = None,
    val_fraction: float = 0.1,
    max_samples: int | None = None,
    seed: int = 0,
    on_bad_image: OnBadImage = "fail",
    cache: str | None = None,
    workers: int | None = None,
) -> Task:
    """Load an image set of the library `datasets`.

    Without test images, the validation images become the test split. Missing splits are drawn at random from
    the training images, the fraction `val_fraction` for each.

    Args:
        path: Folder that `save_to_disk` has written, a Parquet or Arrow file or a folder of them, or the name
            of a data set on the hub, which is downloaded.
        image: Column of images; default: the only column of type Image.
        label: Column of labels; default: the only column of type ClassLabel, which names the classes. Columns
            of integers or strings are accepted; their values name the classes.
        config: Configuration of a data set on the hub that has several.
        size: Height and width of the images, which are resized and center-cropped; default: the shorter side
            of the first image.
        val_fraction: Fraction of the training images that is held out for each missing split.
        max_samples: Maximum number of images per split, drawn at random.
        seed: Seed of the random split.
        on_bad_image: "fail" raises an error for an unreadable image; "skip" leaves it out and lists it in
            `skipped`.
        cache: Folder of decoded images, as for the task `folder`. A split is identified by its fingerprint,
            which the library changes with the rows.
        workers: Number of threads that decode images; default: one per CPU available to this process.

    Raises:
        BadOption: The library is not installed, a column must be named, or a value is out of range.
        UnknownName: A column does not exist.
        BadData: The data set cannot be loaded, an image cannot be read, or the cache cannot be written.
    """
    options = ReadingOptions(_TASK, size, val_fraction, max_samples, seed, on_bad_image, workers, cache)
    try:
        library = importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        message = "huggingface: the library datasets is not installed; pip install 'saccade[huggingface]'"
        raise BadOption(message, owner=_TASK, value="datasets") from error
    splits = _load_splits(library, path, config)
    if len(splits) == 1:
        splits = {"train": next(iter(splits.values()))}
    if "train" not in splits:
        problem = f"{path!r} has no split 'train', but {', '.join(map(repr, splits))}"
        raise BadData.of(_TASK, problem, splits, path=path)
    features = splits["train"].features
    image = _find_column(path, "image", image, features, library.Image)
    label = _find_column(path, "label", label, features, library.ClassLabel)
    classes = _class_names(splits, label)
    parts = {
        part: _RowDataset(library, splits[name], image, label, classes)
        for part, names in SPLIT_NAMES.items()
        for name in [name for name in names if name in splits][:1]
    }
    content = {part: dataset.content for part, dataset in parts.items()}
    return task_from_datasets(f"{_TASK}:{Path(path).name}", parts, classes, options, content)


def _load_splits(library: Any, path: str, config: str | None) -> dict[str, Any]:
    """Return the data set of each split by name."""
    place = Path(path).expanduser()
    if place.is_file() and place.suffix not in _FILES:
        raise BadData.of(_TASK, f"{path!r} is neither a .parquet nor an .arrow file", _FILES, path=path)
    try:
        if (place / "dataset_dict.json").exists() or (place / "state.json").exists():
            loaded = library.load_from_disk(str(place))
        elif place.is_file():
            loaded = library.load_dataset(_FILES[place.suffix], data_files=str(place))
        elif place.exists():
            loaded = library.load_dataset(str(place))
        else:
            loaded = library.load_dataset(path, config)
    except Exception as error:  # the library, its formats and the network may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadData.of(_TASK, f"{path!r} cannot be loaded: {reason}", path=path) from error
    return dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}


def _find_column(path: str, option: str, name: str | None, features: Mapping[str, Any], kind: type) -> str:
    """Return the named column, or the only column of a type."""
    if name is not None:
        if name not in features:
            raise UnknownName(f"column of {path}", name, features, owner=path)
        return name
    candidates = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(candidates) != 1:
        columns = ", ".join(map(repr, candidates or features))
        actual = "several columns" if candidates else f"no column of type {kind.__name__} among"
        problem = f"{path!r} has {actual} {columns}; name one with {option}=COLUMN"
        raise BadOption.of(_TASK, problem, candidates or features, **{option: None})
    return candidates[0]


def _class_names(splits: Mapping[str, Any], label: str) -> list[str] | None:
    """Return the names of the classes, or None if the labels are integers."""
    feature = splits["train"].features[label]
    if hasattr(feature, "names"):
        return [*feature.names]
    labels = {one for rows in splits.values() for one in rows.unique(label)}
    return sorted(labels) if all(isinstance(one, str) for one in labels) else None


class _RowDataset:
    """Rows as (image, label). Images are decoded here, with the checks of `open_image`."""

    def __init__(
        self, library: Any, rows: Any, image: str, label: str, classes: Sequence[str] | None
    ) -> None:
        selected = rows.select_columns([image, label])
        self.rows = selected.cast_column(image, library.Image(decode=False))
        self.image, self.label, self.classes = image, label, classes
        self.content: str = f"{rows._fingerprint} {image} {label} {classes}"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self.rows[index]
        stored, label = row[self.image], row[self.label]
        if isinstance(label, str) and self.classes is not None:
            label = operator.indexOf(self.classes, label)
        return open_image(stored["bytes"] or stored["path"]), label
