"""What is read from the files of mechanisms is what their specs say."""

from __future__ import annotations

from dataclasses import fields

import saccade as sc
from saccade.layers.built_in import built_in_mechanisms
from saccade.layers.facts import Facts, built_in_facts


def test_facts_are_those_of_the_specs() -> None:
    found = built_in_facts()
    assert [facts.name for facts in found] == sorted(built_in_mechanisms())
    for facts in found:
        spec = sc.spec(facts.name)
        for field in fields(Facts):
            assert getattr(facts, field.name) == getattr(spec, field.name), (facts.name, field.name)
