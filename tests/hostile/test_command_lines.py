"""Clumsy and hostile command lines end with one sentence: no stack trace, no hang, no code run."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostile.cases import QUICK, SMALL, Case, fine, recipes, refused
from support.forked import ForkServer, Outcome

_LONGEST = 1500  # characters of a message: about a screen


def run(server: ForkServer, case: Case, prepared: dict[str, str], folder: Path) -> Outcome:
    arguments = tuple(_fill(argument, prepared) for argument in case.arguments)
    outcome = server.run(arguments, folder / "work", HOME=str(folder), **dict(case.environment))
    assert outcome.code is not None, f"hangs: {outcome.error}"
    assert "Traceback" not in outcome.output + outcome.error, outcome.error
    assert not [*folder.rglob("CANARY")], "code ran"
    assert not set(map(chr, [*range(9), *range(11, 32), 127])) & set(outcome.output + outcome.error)
    return outcome


def _fill(argument: str, prepared: dict[str, str]) -> str:
    for name, path in prepared.items():
        argument = argument.replace(f"{{{name}}}", path)
    return argument


def check_refused(outcome: Outcome) -> None:
    assert outcome.code == 2, (outcome.code, outcome.output, outcome.error)
    assert len(outcome.error) + len(outcome.output) <= _LONGEST, outcome.error
    assert outcome.error.strip()


@pytest.mark.parametrize("case", refused(), ids=lambda case: case.line[:80].encode("unicode_escape").decode())
def test_it_is_refused_with_one_sentence(
    case: Case, server: ForkServer, prepared: dict[str, str], tmp_path: Path
) -> None:
    outcome = run(server, case, prepared, tmp_path)
    check_refused(outcome)
    assert case.names.replace("_", "-") in outcome.error.replace("_", "-").replace("\n", ""), outcome.error


@pytest.mark.parametrize("case", fine(), ids=lambda case: f"{case.line[:80]}{case.environment}")
def test_it_works(case: Case, server: ForkServer, prepared: dict[str, str], tmp_path: Path) -> None:
    outcome = run(server, case, prepared, tmp_path)
    assert outcome.code == 0, outcome.error


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_is_refused_with_one_sentence(
    name: str, server: ForkServer, prepared: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipes()[name])
    for command in ("train", "compare"):
        case = Case(f"{command} --recipe {tmp_path / 'recipe.yaml'} --print-recipe")
        if name == "code":
            case = Case(f"{command} --recipe {tmp_path / 'recipe.yaml'} {QUICK}")
        check_refused(run(server, case, prepared, tmp_path))
    assert SMALL
