"""Run the command line in forked children of a server that has imported everything.

A child starts in milliseconds, because it has nothing to import. Otherwise it is a process of its own, with a
session, a folder and standard streams: it can be interrupted and killed. The server is this file, run as a
program: it reads a request per line, starts a child or looks after one, and answers.
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

import torch

_PRELOAD = (
    "saccade.cli.commands",
    "saccade.experiments",
    "saccade.search",
    "saccade.viz",
    "lightning.pytorch",
    "timm.optim",
)
_MAX_MEMORY = 16 << 30
_MAX_FILE = 512 << 20
_MAX_CAPTURED = 200_000
_PAUSE = 0.005  # seconds between two looks at a child

#: What a child does unless a test says otherwise: the command line.
COMMAND = "from saccade.cli import run_and_exit; run_and_exit()"


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


class Child:
    """A running child, with the methods of `subprocess.Popen`."""

    def __init__(self, server: ForkServer, pid: int, folder: Path) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        self._folder = folder

    def poll(self) -> int | None:
        """Return the exit code, or None while the child runs."""
        if self.returncode is None:
            self.returncode = self._server.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Return the exit code.

        Raises:
            subprocess.TimeoutExpired: The child still runs after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("saccade", timeout)
            time.sleep(_PAUSE)
        return code

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait for the child; return its standard output and error."""
        self.wait(timeout)
        return self.read("out"), self.read("err")

    def read(self, stream: str) -> str:
        """Return what the child has written to "out" or "err" so far."""
        return Path(f"{self._folder}.{stream}").read_bytes()[:_MAX_CAPTURED].decode(errors="backslashreplace")

    def send_signal(self, number: int) -> None:
        """Send a signal to the child, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the child."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Starts `saccade` in forked children."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, __file__]
        threads = str(torch.get_num_threads())  # results are bit-identical with as many threads as here
        defaults = {"OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}
        environment = {**os.environ, **defaults, **(environment or {})}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, **request: Any) -> Any:
        """Send a request to the server and return the answer."""
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the server has no pipes")
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())

    def start(
        self,
        arguments: tuple[str, ...],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        code: str = COMMAND,
        max_file: int = _MAX_FILE,
    ) -> Child:
        """Start `saccade ARGUMENTS`, or other code, in a folder, in a process group of its own.

        `FOLDER.out` and `FOLDER.err` hold what the child prints. `max_file` is the limit of files in bytes.
        """
        pid = self.ask(
            arguments=arguments,
            folder=str(folder),
            environment=dict(environment or {}),
            code=code,
            max_file=max_file,
        )
        return Child(self, pid, folder)

    def run(
        self,
        arguments: tuple[str, ...],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        code: str = COMMAND,
        max_file: int = _MAX_FILE,
        timeout: float = 60,
    ) -> Outcome:
        """Run `saccade ARGUMENTS`, or other code, to its end; kill what remains of its process group."""
        begun = time.monotonic()
        child = self.start(arguments, folder, environment=environment, code=code, max_file=max_file)
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout)
        seconds, code_or_none = time.monotonic() - begun, child.returncode
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # the child, or what it left behind
        if code_or_none is None:
            child.wait(timeout)
        return Outcome(code_or_none, child.read("out"), child.read("err"), seconds)

    def close(self) -> None:
        """End the server and the children that still run."""
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
    resource.setrlimit(resource.RLIMIT_FSIZE, (request["max_file"], request["max_file"]))
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["saccade", *request["arguments"]]
    exec(request["code"], {"__name__": "__child__"})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # to take apart all imported modules takes seconds


def _serve() -> None:
    for name in _PRELOAD:
        __import__(name)
    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
            running.discard(pid)
        elif answer := os.fork():
            running.add(answer)
        else:
            os.setsid()  # no terminal, and a group to end
            _child(request)
            return
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in running:
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
