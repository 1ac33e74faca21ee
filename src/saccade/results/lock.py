"""The lock of a folder: one process at a time writes there."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from saccade.errors import BadRun

LOCK = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder for this process until the block ends, and make it if it is not there.

    The operating system holds the lock, so that it ends with its process, however that dies; the file that
    stays behind names a process that is gone, and is taken over. A folder that was made here and that nothing
    was written into is taken away again.

    Raises `BadRun` if another process holds the folder, which is named, or if it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place, held(Path(place) / "run"), held(Path(place) / "run"):
    ...     pass
    Traceback (most recent call last):
    saccade.errors.BadRun: '.../run' is in use by process ... on ...
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / LOCK
    lock = FileLock(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holder = path.read_text().split() if path.exists() else []
        lock.acquire(blocking=False)
        path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
    except Timeout:
        pid, host = holder if len(holder) == 2 else ("unknown", "another host")
        raise BadRun(f"{str(folder)!r} is in use by process {pid} on {host}") from None
    except OSError as error:
        raise BadRun(f"{str(folder)!r} cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release: whoever opened it meanwhile holds nothing
        lock.release()
        with suppress(OSError):  # until the first that is not empty
            for empty in made:
                empty.rmdir()
