"""Attention between positions in the form of large maps, which never holds all weights."""

from __future__ import annotations

import pytest

from saccade.ops import chunks


@pytest.fixture
def without_all_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test in the form of large maps. Small ones are computed by the formula of the tests."""
    monkeypatch.setattr(chunks, "_FEW", 0)
