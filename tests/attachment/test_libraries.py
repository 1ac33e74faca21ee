"""The default call of `attach` on small networks of other libraries, from attaching to detaching.

`benchmarks/attach_networks.py` goes through the same steps with further networks, and writes a table.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from support.attach_networks import CASES, EVERY, SHALLOW
from support.attach_round_trip import round_trip

TESTED = CASES | SHALLOW
#: `make test` takes every third network, `make soak` the others.
NAMES = [
    pytest.param(name, marks=() if number % 3 == 0 else pytest.mark.soak)
    for number, name in enumerate(TESTED)
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_in_and_out(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    library = name.partition(" ")[0]
    pytest.importorskip(library, reason=f"{library} is not installed")
    case = TESTED[name]
    trip = round_trip(case)
    assert trip.attached >= case.places
    assert (trip.refusal is not None) == case.unfit
    outcome = dataclasses.asdict(trip)
    assert {step: done for step, done in outcome.items() if done is False} == {}


def test_there_are_as_many_as_promised() -> None:
    assert len(CASES) >= 60
    assert SHALLOW.keys() < CASES.keys()
    assert len(EVERY) >= 97
