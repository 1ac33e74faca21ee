"""Image sets of the library `datasets` of Hugging Face."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saccade.data.decode import OnBadImage, check_reading, cores
from saccade.data.images import open_image
from saccade.data.items import task_of
from saccade.data.task import Task
from saccade.errors import BadData, BadOption, UnknownName

#: What the parts of a data set are called.
SPLITS = {"train": ("train",), "test": ("test",), "validation": ("validation", "valid", "val", "dev")}

_FILES = {".parquet": "parquet", ".arrow": "arrow"}


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
    """An image set of the library `datasets`, which has to be installed.

    path            a folder written by `save_to_disk`; a Parquet or Arrow file, or a folder of them; or a
                    name of the hub, from which it is downloaded
    image, label    columns, by default the one of images and the one of class labels, which name the classes;
                    integers and texts will do as well, and are then the names
    config          of a set of the hub that has several
    size            side of the images, which are resized and cut at their center; by default the shorter side
                    of the first one
    cache           a folder in which the images are kept as they are trained with, as of the task `folder`; a
                    split is known by its fingerprint, which the library changes with its rows
    workers         threads that decode, by default as many as there are processors for this process

    The other options are those of the task `python`, and so are the splits: a set without test images is
    tested on its validation images, and what is missing then is drawn from the training images.

    Raises `BadOption` if the library is not installed or a column has to be named, `UnknownName` for a column
    that does not exist, `BadData` for a set that cannot be loaded, an image that cannot be read, or a cache
    that cannot be written.
    """
    check_reading(
        "huggingface",
        size=size,
        val_fraction=val_fraction,
        max_samples=max_samples,
        on_bad_image=on_bad_image,
        workers=workers,
    )
    try:
        library = importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        how = "pip install 'saccade[huggingface]'"
        raise BadOption(f"huggingface: the library datasets is not installed; {how}") from error
    found = _loaded(library, path, config)
    if "train" not in found:
        (only, *others) = found
        if others:
            raise BadData(f"huggingface: {path!r} has no split 'train', but {', '.join(map(repr, found))}")
        found = {"train": found[only]}
    features = found["train"].features
    image = _column(path, "image", image, features, library.Image)
    label = _column(path, "label", label, features, library.ClassLabel)
    classes = _classes(found, label)
    parts = {
        part: _Rows(library, found[its], image, label, classes)
        for part, names in SPLITS.items()
        for its in [next((its for its in names if its in found), None)]
        if its is not None
    }
    keys = {part: its.key for part, its in parts.items()}
    kept = None if cache is None else (Path(cache).expanduser(), keys)
    return task_of(
        f"huggingface:{Path(path).name}",
        parts,
        classes,
        size=size,
        val_fraction=val_fraction,
        max_samples=max_samples,
        seed=seed,
        on_bad_image=on_bad_image,
        workers=workers or cores(),
        cache=kept,
    )


def _loaded(library: Any, path: str, config: str | None) -> dict[str, Any]:
    """Return the data set of each split, by its name."""
    place = Path(path).expanduser()
    try:
        if (place / "dataset_dict.json").exists() or (place / "state.json").exists():
            found = library.load_from_disk(str(place))
        elif place.is_file():
            if place.suffix not in _FILES:
                raise BadData(f"huggingface: {path!r} is neither a .parquet nor an .arrow file")
            found = library.load_dataset(_FILES[place.suffix], data_files=str(place))
        elif place.exists():
            found = library.load_dataset(str(place))
        else:
            found = library.load_dataset(path, config)
    except BadData:
        raise
    except Exception as error:  # the library, its formats and the network raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadData(f"huggingface: {path!r} cannot be loaded: {reason}") from error
    return dict(found) if isinstance(found, Mapping) else {"train": found}


def _column(path: str, option: str, given: str | None, features: Mapping[str, Any], kind: type) -> str:
    """Return the column that was named, or the one of a kind."""
    if given is not None:
        if given not in features:
            raise UnknownName(f"column of {path}", given, features)
        return given
    fitting = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(fitting) != 1:
        columns = ", ".join(map(repr, fitting or features))
        there = "several columns" if fitting else f"no column of kind {kind.__name__} among"
        raise BadOption(f"huggingface: {path!r} has {there} {columns}; name one with {option}=COLUMN")
    return fitting[0]


def _classes(found: Mapping[str, Any], label: str) -> list[str] | None:
    """Return the names of the classes; of integers none."""
    feature = found["train"].features[label]
    if hasattr(feature, "names"):
        return [*feature.names]
    labels = {one for rows in found.values() for one in rows.unique(label)}
    return sorted(labels) if all(isinstance(one, str) for one in labels) else None


class _Rows:
    """Rows as (image, label), whose images are decoded by us, and not by whoever gets the row."""

    def __init__(
        self, library: Any, rows: Any, image: str, label: str, classes: Sequence[str] | None
    ) -> None:
        chosen = rows.select_columns([image, label])
        self.rows = chosen.cast_column(image, library.Image(decode=False))
        self.image, self.label, self.classes = image, label, classes
        self.key: str = f"{rows._fingerprint} {image} {label} {classes}"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self.rows[index]
        stored, label = row[self.image], row[self.label]
        if isinstance(label, str) and self.classes is not None:
            label = operator.indexOf(self.classes, label)
        return open_image(stored["bytes"] or stored["path"]), label
