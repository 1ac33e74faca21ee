"""Files: a file appears complete or not at all, and only regular files are read."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from saccade.errors import bad_run

_MAX_BYTES = 64 << 20  # of a text file
_MOST_PARTS = 200  # of a path


@contextmanager
def atomic_write(path: Path, *, marker: bytes | None = None, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces `path` when the block ends without an error.

    If the block fails or the process is killed, the old file is unchanged.

    Args:
        path: The file. Missing parent folders are created.
        marker: What the beginning of every file of this kind contains. A file without it belongs to the user.
        overwrite: Whether to replace a file of the user.

    Raises:
        BadRun: The folder is not writable, the disk is full, or `path` is a device, a pipe, a folder or a
            file of the user.
    """
    temporary: Path | None = None
    if path.exists() and not path.is_file():
        raise bad_run(path, "cannot be written: it exists, and is not a regular file")
    if marker and not overwrite and path.exists() and marker not in _beginning(path):
        problem = "was not written by saccade; choose another path, or overwrite it"
        raise bad_run(path, problem, "overwrite", value=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            temporary = Path(file.name)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise bad_run(path, f"cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def check_folder(folder: Path) -> None:
    """Raise `BadRun` unless a path can be the folder of results: no file, and not the root folder."""
    if len(folder.parts) > _MOST_PARTS:
        problem = f"has {len(folder.parts)} parts; at most {_MOST_PARTS} are supported"
        raise bad_run(folder, problem, "out")
    if folder.exists() and not folder.is_dir():
        raise bad_run(folder, "is not a folder")
    if folder.resolve() == Path(folder.resolve().anchor):
        raise bad_run(folder, "is the root folder; choose another folder", "out", str(folder))


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises:
        BadRun: The file is missing, unreadable, not a regular file, not UTF-8, or larger than 64 MB.

    Example:
        >>> read_text(Path("/dev/zero"))
        Traceback (most recent call last):
        saccade.errors.BadRun: '/dev/zero' cannot be read: it is not a regular file
    """
    try:
        check_regular(path)
        if path.stat().st_size > _MAX_BYTES:
            raise OSError(f"it is larger than {_MAX_BYTES >> 20} MB")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise bad_run(path, "cannot be read: it is not text in UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise bad_run(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def check_regular(path: Path) -> None:
    """Raise `OSError` for a pipe, a device or a socket: to read one may wait or go on forever."""
    if not stat.S_ISREG(path.stat().st_mode):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        raise OSError("it is not a regular file")


def check_schema(path: Path, schema: object, expected: int) -> None:
    """Raise `BadRun` unless a file has the schema that this version of saccade reads.

    Example:
        >>> check_schema(Path("result.json"), 1, expected=2)
        Traceback (most recent call last):
        saccade.errors.BadRun: 'result.json' has schema 1, written by an earlier saccade; this version reads
        schema 2
    """
    if schema == expected:
        return
    is_older = isinstance(schema, int) and schema < expected
    writer = f"{'an earlier' if is_older else 'a newer'} saccade"
    problem = f"has schema {schema!r}, written by {writer}; this version reads schema {expected}"
    raise bad_run(path, problem, "schema", schema)


def write_text(path: Path, text: str) -> None:
    """Write text atomically, in UTF-8."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON atomically.

    Raises:
        ValueError: The value contains a number that is not finite.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
