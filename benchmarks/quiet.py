"""Whether other programs disturbed a measurement: times of a busy machine are not written."""

from __future__ import annotations

import os
import time
from pathlib import Path

LIMIT = 0.05  # of the time of all cores


class Machine:
    """The time that the cores of this machine spend on other programs, from when the object is created.

    Time that a hypervisor takes away counts, too. Linux alone.
    """

    def __init__(self) -> None:
        self._began = _now()

    def share_of_others(self) -> float:
        """Return the share of the time of all cores that went to other programs."""
        wall, busy, own = (after - before for after, before in zip(_now(), self._began, strict=True))
        return max(0.0, busy - own) / (wall * (os.cpu_count() or 1))

    def check(self) -> float:
        """Return the share of others, or end the program if it is too large for times to count."""
        share = self.share_of_others()
        if share > LIMIT:
            raise SystemExit(
                f"not written: other programs took {share:.0%} of the cores, more than {LIMIT:.0%}"
            )
        return round(share, 4)


def _now() -> tuple[float, float, float]:
    """Return the time, and the seconds that all programs, and this one with its children, have computed."""
    own = os.times()
    user, nice, system, _idle, _waiting, interrupt, soft, stolen = (
        int(ticks) / os.sysconf("SC_CLK_TCK")
        for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    busy = user + nice + system + interrupt + soft + stolen
    return time.monotonic(), busy, own.user + own.system + own.children_user + own.children_system
