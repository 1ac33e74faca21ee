"""A Ray cluster of two nodes on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_SIZE = ("--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000")


def command(pid: int) -> str:
    """Return the command line of a process, or nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def all_pids() -> set[int]:
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}


@contextmanager
def two_nodes() -> Iterator[tuple[str, Mapping[str, str]]]:
    """Start two nodes of one CPU each; only their processes are killed afterwards.

    Yields:
        The address, and the variables of the environment that let a process connect to it.
    """
    temporary = Path(tempfile.mkdtemp(prefix="ray-"))  # the paths of its sockets must be short
    token = temporary / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    before = all_pids()
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.2:{port}"
    head = ("--head", "--node-ip-address=127.0.0.2", f"--port={port}", f"--temp-dir={temporary}")
    try:
        _ray("start", *head, *_SIZE, "--include-dashboard=false", "--disable-usage-stats", access=access)
        _ray("start", f"--address={address}", "--node-ip-address=127.0.0.3", *_SIZE, access=access)
        yield address, access
    finally:
        for pid in all_pids() - before:
            if str(temporary) in command(pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        shutil.rmtree(temporary, ignore_errors=True)


def _ray(*arguments: str, access: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *arguments],
        env=os.environ | access, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
