"""Signals as in a foreground shell, and the markers that `make test-fast` leaves out."""

from __future__ import annotations

import signal

import pytest

# A shell's background jobs ignore Ctrl-C, and so would the processes that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Marker -> beginnings of test ids, relative to tests/. The fixture `browser` marks the tests of pages.
MARKED = {
    "ray": (
        "experiments/test_executors.py::test_a_cluster",
        "experiments/test_executors.py::test_files_of_a_node",
        "experiments/test_executors.py::test_an_address",
    ),
    "process": (
        "experiments/test_executors.py",
        "experiments/test_compare.py::test_killed",
        "experiments/test_compare.py::test_ctrl_c",
        "experiments/test_score.py",
        "training/test_robust.py",
        "data/test_decoding.py",
        "attachment/test_survival.py",
        "test_house.py::test_importing",
        "test_house.py::test_the_wheel",
    ),
    "slow": (
        "experiments/",
        "training/",
        "attachment/test_sweep.py",
        "docs/test_examples.py",
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its id, and those that use the fixture `browser`."""
    for item in items:
        name = item.nodeid.removeprefix("tests/")
        for marker, prefixes in MARKED.items():
            if name.startswith(prefixes):
                item.add_marker(marker)
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
