"""The lock of a folder: one process at a time writes there."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from saccade.errors import bad_run
from saccade.files import check_folder

LOCK = ".lock"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for this process until the block ends. A missing folder is created.

    The operating system holds the lock and releases it when the process ends, however it ends. A lock file
    left behind by a process that is gone is taken over. A folder that was created here and is still empty at
    the end is removed.

    Raises:
        BadRun: Another process holds the lock, or the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     with lock_folder(Path(root) / "run"), lock_folder(Path(root) / "run"):
        ...         pass
        Traceback (most recent call last):
        saccade.errors.BadRun: '.../run' is in use by process ... on ...
    """
    path = folder / LOCK
    lock = FileLock(path)
    try:
        check_folder(folder)
        created = [part for part in (folder, *folder.parents) if not part.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        holder = path.read_text().split() if path.exists() else []
        lock.acquire(blocking=False)
        path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n")
    except Timeout:
        pid, host = holder if len(holder) == 2 else ("unknown", "another host")
        raise bad_run(folder, f"is in use by process {pid} on {host}", "lock", pid) from None
    except OSError as error:  # also of a path that is too long, or a part of which is no folder
        reason = error.strerror or str(error)
        raise bad_run(folder, f"cannot be written: {reason}", value=reason) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release: a process that opened it meanwhile holds nothing
        lock.release()
        with suppress(OSError):  # stops at the first folder that is not empty
            for empty in created:
                empty.rmdir()


def check_unused(folder: Path, traces: Collection[str] = ()) -> None:
    """Raise `BadRun` if a folder holds files that are neither its lock nor traces of an earlier start.

    Args:
        folder: The folder.
        traces: Names that are accepted.
    """
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in (LOCK, *traces))
    if foreign:
        problem = f"is not empty: it holds {foreign[0]!r}; choose another folder"
        raise bad_run(folder, problem, "out", foreign[0])
