"""Atomic writing: a file appears complete or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from saccade.errors import BadRun


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces `path` when the block ends without an error.

    If the block fails or the process is killed, the old file is unchanged.

    Args:
        path: The file. Missing parent folders are created.

    Raises:
        BadRun: The folder is not writable or the disk is full.
    """
    temporary: Path | None = None
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
        message = f"{str(path)!r} cannot be written: {error.strerror or error}"
        raise BadRun(message, owner=str(path)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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
    reason = f"written by {'an earlier' if is_older else 'a newer'} saccade"
    message = f"{str(path)!r} has schema {schema!r}, {reason}; this version reads schema {expected}"
    raise BadRun(message, owner=str(path), option="schema", value=schema)


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
