"""The images of a command line in batches, and those that are written to its folders later."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from saccade.cli.terminal import echo

if TYPE_CHECKING:
    from saccade.data import Photograph

_BATCH = 24  # images that the model sees at a time; the page shows the first of them
_PAUSE = 0.2  # seconds between two looks at the folders

#: Size and time of modification of a file.
State = tuple[int, int]


def image_batches(paths: Sequence[Path], watch: bool = False) -> Iterator[tuple[list[Photograph], list[str]]]:
    """Return batches of the images of files and folders, with distinct names.

    The images of a folder are in the order of their numbers: frame 2 comes before frame 10. All are read
    once before the first batch, so that an unreadable one is found before anything is written.

    Args:
        paths: Files and folders.
        watch: Whether to continue with the images that are written to the folders from now on, also over an
            earlier one. Then the batches do not end, a folder can be empty, and an unreadable new image is
            reported and skipped until it changes.

    Raises:
        BadData: A folder is unreadable or, without `watch`, has no image.
        BadImage: An image is unreadable.
    """
    from saccade.data import read_image

    folders = [path for path in paths if path.is_dir()]
    files = [file for path in paths for file in (_images(path, watch) if path in folders else [path])]
    for file in files:
        read_image(file)
    return _batches(files, folders if watch else [])


def _images(folder: Path, may_be_empty: bool) -> list[Path]:
    """Return the images of a folder in the order of their numbers."""
    from saccade.data import image_files
    from saccade.errors import BadData

    try:
        return sorted(image_files(folder), key=_by_number)
    except BadData as error:
        if may_be_empty and error.choices:  # it names the suffixes of images, of which there is none
            return []
        raise


def _batches(files: list[Path], folders: list[Path]) -> Iterator[tuple[list[Photograph], list[str]]]:
    from saccade.data import read_image

    names: Counter[str] = Counter()
    states = _states(files)
    for start in range(0, len(files), _BATCH):
        batch = files[start : start + _BATCH]
        yield [read_image(file) for file in batch], [_distinct(file, names) for file in batch]
    for file, image in _arrivals(folders, states) if folders else ():
        yield [image], [_distinct(file, names)]


def _arrivals(folders: list[Path], drawn: dict[Path, State]) -> Iterator[tuple[Path, Photograph]]:
    """Yield the images that are written to folders, for ever: each when its file no longer changes."""
    from saccade.data import BadImage, read_image

    echo(f"watching {', '.join(map(str, folders))}: Ctrl-C ends")
    states: dict[Path, State] = {}
    while True:
        before, states = states, _states(file for folder in folders for file in _images(folder, True))
        for file, state in states.items():
            if state == drawn.get(file) or state != before.get(file):
                continue
            drawn[file] = state
            try:
                yield file, read_image(file)
            except BadImage as error:
                echo(f"skipped: {error}")
        time.sleep(_PAUSE)


def _states(files: Iterable[Path]) -> dict[Path, State]:
    """Return the size and the time of modification of files; of those that are gone, nothing."""
    found = {}
    for file in files:
        with suppress(FileNotFoundError):
            status = file.stat()
            found[file] = (status.st_size, status.st_mtime_ns)
    return found


def _by_number(file: Path) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(file))]


def _distinct(file: Path, names: Counter[str]) -> str:
    names[file.stem] += 1
    return file.stem if names[file.stem] == 1 else f"{file.stem}-{names[file.stem]}"
