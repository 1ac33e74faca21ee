"""The end of the process: what is under way is finished, and the modules are left to the system."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import IO

import pytest


def run(body: str, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run the entry point with another `main`."""
    code = f"import atexit, sys, threading, time\nfrom saccade.cli import commands\n{body}\n"
    code += "commands.main = main\ncommands.run_and_exit()\nprint('not reached')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize(("code", "expected"), [("None", 0), ("0", 0), ("2", 2), ("143", 143)])
def test_the_exit_code_is_that_of_the_command(code: str, expected: int) -> None:
    done = run(f"def main(): print('out'); print('err', file=sys.stderr); sys.exit({code})")
    assert (done.returncode, done.stdout, done.stderr) == (expected, "out\n", "err\n")


def test_a_sentence_as_exit_code_is_printed() -> None:
    done = run("def main(): sys.exit('a sentence')")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "a sentence\n")


def test_threads_and_functions_of_atexit_come_first_and_modules_stay() -> None:
    done = run(
        "class Module:\n"
        "    def __del__(self): print('taken apart')\n"
        "module = Module()\n"
        "module.itself = module\n"
        "def work(): time.sleep(0.2); print('thread')\n"
        "def main():\n"
        "    atexit.register(print, 'atexit')\n"
        "    threading.Thread(target=work).start()\n"
        "    sys.exit(3)"
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "thread\natexit\n", "")


def test_an_error_is_shown_as_usual() -> None:
    done = run("def main(): raise RuntimeError('a defect')")
    assert done.returncode == 1
    assert "RuntimeError: a defect" in done.stderr


def test_output_that_nobody_reads_is_no_success() -> None:
    with open("/dev/full", "w") as full:
        done = run("def main(): sys.stdout.write('out'); sys.exit(0)", full)
    assert done.returncode == 120  # as Python ends then
    assert "No space left on device" in done.stderr
