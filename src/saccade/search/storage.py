"""The storage of a study, an SQLite file, and its errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from saccade.errors import BadRun


def open_storage(path: Path, timeout: float) -> RDBStorage:
    """Open or create the storage.

    Args:
        path: The file.
        timeout: Seconds until another program must release it.
    """

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=timeout, check_same_thread=False)

    # The path itself could hold letters that a URL does not allow.
    return RDBStorage("sqlite:///study.db", engine_kwargs={"creator": connect})


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a storage into one sentence.

    Raises:
        BadRun: The storage is locked (`value="locked"`), or is not one (`value="damaged"`).
    """
    try:
        yield
    except (Timeout, StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        cause = str(error.__cause__ or error).partition("\n")[0]
        is_locked = isinstance(error, Timeout) or "database is locked" in f"{error} {cause}"
        if is_locked:
            problem, value = "is locked by another program, which does not release it", "locked"
        else:
            problem, value = f"cannot be used as the storage of a study: {cause}", "damaged"
        message = f"{str(path)!r} {problem}"
        raise BadRun(message, owner=str(path), option="storage", value=value) from error
