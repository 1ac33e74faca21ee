"""The folders of the parts of a data set, if its owner has split it: train, val and test."""

from __future__ import annotations

from pathlib import Path

from saccade.errors import BadData

#: Names of the folders of each split.
_NAMES = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def part_folders(root: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the folder of each part, and notes on the choice; no folder if the data set is not split.

    Without a test folder, the images in val are the test split.

    Raises:
        BadData: There is a folder of a part, but none for training.
    """
    entries = sorted(entry for entry in root.iterdir() if entry.is_dir())
    folders = {
        part: entry
        for part, names in _NAMES.items()
        for entry in reversed(entries)
        if entry.name.lower() in names
    }
    if folders and "train" not in folders:
        part = next(iter(folders.values())).name
        message = f"{str(root)!r} has a folder {part!r}, which names a part, but no folder 'train'"
        raise BadData(message, owner=str(root), option="classes", value=part)
    if "test" in folders or "validation" not in folders:
        return folders, ()
    folders["test"] = folders.pop("validation")
    return folders, (f"{str(root)!r} has no folder test: {folders['test'].name} is the test split",)
