"""Times of a busy machine are refused."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

from quiet import Machine


def test_a_busy_machine_is_noticed() -> None:
    machine = Machine()
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # not waited for: not our own time
    try:
        deadline = time.monotonic() + 60
        while machine.share_of_others() < 0.1 and time.monotonic() < deadline:
            time.sleep(0.2)
        with pytest.raises(SystemExit, match="not written: other programs took"):
            machine.check()
    finally:
        other.kill()
        other.wait()
