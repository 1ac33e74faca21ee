"""Run the command line in forked children of a server that has imported everything, with limits.

The server is this file, run as a program: it reads a request per line, forks, waits, and answers.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PRELOAD = ("saccade.cli.commands", "saccade.experiments", "saccade.viz", "lightning.pytorch", "timm.optim")
_MAX_MEMORY = 16 << 30
_MAX_FILE = 512 << 20
_MAX_CAPTURED = 200_000


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        code: Exit code; negative for a signal, None if the command had to be killed.
        output: Standard output.
        error: Standard error.
        seconds: Duration.
    """

    code: int | None
    output: str
    error: str
    seconds: float


class ForkServer:
    """Runs `saccade` in forked children, one at a time."""

    def __init__(self) -> None:
        command = [sys.executable, __file__]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(
        self, arguments: tuple[str, ...], folder: Path, *, environment: Mapping[str, str], timeout: float = 60
    ) -> Outcome:
        """Run `saccade ARGUMENTS` in a folder, with additional environment variables."""
        request = {
            "arguments": arguments,
            "folder": str(folder),
            "timeout": timeout,
            "environment": dict(environment),
        }
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the server has no pipes")
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        answer = json.loads(stdout.readline())
        output, error = (
            Path(f"{folder}.{name}").read_bytes()[:_MAX_CAPTURED].decode(errors="backslashreplace")
            for name in ("out", "err")
        )
        return Outcome(answer["code"], output, error, answer["seconds"])

    def close(self) -> None:
        """End the server."""
        self.process.communicate()


def _child(request: dict[str, Any]) -> None:
    folder = Path(request["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    for stream, suffix in ((0, None), (1, "out"), (2, "err")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        path = Path(f"{folder}.{suffix}") if suffix else Path(os.devnull)
        os.dup2(os.open(path, flags if suffix else os.O_RDONLY), stream)
    os.environ.update(request["environment"])
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE, _MAX_FILE))
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["saccade", *request["arguments"]]
    from saccade.cli import main

    main()


def _serve() -> None:
    for name in _PRELOAD:
        __import__(name)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.monotonic()
        pid = os.fork()
        if not pid:
            os.setsid()  # no terminal, and a group to end
            _child(request)
            return
        code: int | None = None
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                break
            if time.monotonic() - start > request["timeout"]:
                break
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # the child, or what it left behind
        if code is None:
            os.waitpid(pid, 0)
        sys.stdout.write(json.dumps({"code": code, "seconds": time.monotonic() - start}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
