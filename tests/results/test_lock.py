"""The lock: one process per folder, and nothing left behind."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from saccade.errors import BadRun
from saccade.results import LOCK, lock_folder
from support.errors import raises


def test_a_folder_is_held_by_one_and_left_clean(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    host = socket.gethostname()
    with lock_folder(folder), pytest.raises(BadRun, match=host) as caught, lock_folder(folder):
        pass
    assert (caught.value.owner, caught.value.option, caught.value.value) == (
        str(folder),
        "lock",
        str(os.getpid()),
    )
    assert not (tmp_path / "new").exists()  # nothing was written
    with lock_folder(folder):
        (folder / "kept").touch()
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_a_lock_file_of_a_process_that_is_gone_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("1\nelsewhere\n")
    with lock_folder(tmp_path):
        assert (tmp_path / LOCK).read_text().split() == [str(os.getpid()), socket.gethostname()]


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run"
    with raises(BadRun, owner=str(folder), value="Not a directory"), lock_folder(folder):
        pass
