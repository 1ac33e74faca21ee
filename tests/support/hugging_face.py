"""A small stand-in for the library `datasets` of Hugging Face, for machines without it.

It implements what `saccade.data.huggingface` calls, with the behavior that the tests rely on: rows are
mappings; a column of images is decoded when a row is read, unless it is cast to `Image(decode=False)` with
the values {"bytes", "path"}; and data sets are read from folders and files.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as Pillow


@dataclass
class Image:
    decode: bool = True


@dataclass
class ClassLabel:
    names: list[str]


@dataclass
class Value:
    dtype: str


class Features(dict[str, Any]):
    pass


class Dataset:
    def __init__(self, columns: Mapping[str, list[Any]], features: Features) -> None:
        self.columns, self.features = columns, features
        self._fingerprint = hashlib.sha256(pickle.dumps(columns)).hexdigest()[:16]

    @classmethod
    def from_dict(cls, columns: Mapping[str, list[Any]], features: Features) -> Dataset:
        return cls(columns, features)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = {name: values[index] for name, values in self.columns.items()}
        for name, feature in self.features.items():
            if isinstance(feature, Image) and feature.decode:
                row[name] = Pillow.open(io.BytesIO(row[name]["bytes"]))
        return row

    def select_columns(self, names: list[str]) -> Dataset:
        return Dataset(
            {name: self.columns[name] for name in names},
            Features({name: self.features[name] for name in names}),
        )

    def cast_column(self, name: str, feature: Any) -> Dataset:
        columns = dict(self.columns)
        if isinstance(feature, Image) and not isinstance(self.features[name], Image):
            columns[name] = [{"bytes": value, "path": None} for value in columns[name]]
        return Dataset(columns, Features({**self.features, name: feature}))

    def unique(self, name: str) -> list[Any]:
        return [*dict.fromkeys(self.columns[name])]

    def save_to_disk(self, path: Path) -> None:
        path.mkdir(parents=True)
        (path / "state.json").write_text("{}")
        self.to_parquet(path / "data")

    def to_parquet(self, path: Path) -> None:
        path.write_bytes(pickle.dumps((self.columns, self.features)))


class DatasetDict(dict[str, Dataset]):
    def save_to_disk(self, path: Path) -> None:
        for split, rows in self.items():
            rows.save_to_disk(path / split)
        (path / "dataset_dict.json").write_text(json.dumps({"splits": [*self]}))


def load_from_disk(path: str) -> Dataset | DatasetDict:
    if (Path(path) / "state.json").exists():
        return Dataset(*pickle.loads((Path(path) / "data").read_bytes()))
    splits = json.loads((Path(path) / "dataset_dict.json").read_text())["splits"]
    loaded = {split: load_from_disk(f"{path}/{split}") for split in splits}
    return DatasetDict({split: rows for split, rows in loaded.items() if isinstance(rows, Dataset)})


def load_dataset(path: str, _config: str | None = None, *, data_files: str | None = None) -> DatasetDict:
    if data_files is None:
        raise FileNotFoundError(f"Couldn't find any data file at {path}.")
    assert path in ("parquet", "arrow")
    return DatasetDict(train=Dataset(*pickle.loads(Path(data_files).read_bytes())))
