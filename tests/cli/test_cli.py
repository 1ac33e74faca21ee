"""The command line: the catalog, one run, and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import saccade as sc
from saccade.cli import main
from saccade.config import builtin_recipes
from saccade.layers import registry
from saccade.layers.aliases import aliases_of
from saccade.profiling import mechanism_cost

TASK = "white-patch:size=32,patch=[6,12],train=40,validation=20,test=20"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr("sys.argv", ["saccade", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_list_names_every_mechanism(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "list") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in sc.mechanisms())
    assert call(monkeypatch, "list", "--domain", "spatial") == 0
    printed = capsys.readouterr().out
    assert "spatial_gate" in printed
    assert "cbam" not in printed


def test_list_fits_eighty_columns_with_a_line_of_facts_for_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert call(monkeypatch, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    facts = {line.split()[0]: line.split()[1:] for line in lines if not line.startswith(" ")}
    for name in sc.mechanisms():
        its = sc.spec(name)
        assert facts[name] == [its.domain, its.selection, its.unit, str(its.paper.year)]


def test_show_draws_the_flow_and_says_what_goes_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "show", "cbam") == 0
    printed = capsys.readouterr().out
    assert "x ─┬─> channel gate ─┬─> multiply" in printed
    assert "a drop-in for any slot" in printed
    assert call(monkeypatch, "show", "scaled_dot_product") == 0
    printed = capsys.readouterr().out
    assert "(B, Q, h, C), (B, K, h, C), (B, K, h, C)\n" in printed
    assert "not a drop-in" in printed


@pytest.mark.parametrize("name", sc.mechanisms())
def test_show_tells_equation_paper_options_and_cost(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "show", name) == 0
    printed = capsys.readouterr().out
    assert sc.spec(name).paper.url in printed
    assert "parameters" in printed
    assert "FLOPs" in printed
    for option in sc.spec(name).options:
        assert f"{option.name} = {option.default!r}" in printed


def test_the_catalog_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == [entry.name for entry in registry.specs()]
    assert call(monkeypatch, "list", "--recipes", "--contains", "ram-mnist", "--json") == 0
    (recipe,) = json.loads(capsys.readouterr().out)
    assert (recipe["name"], recipe["command"]) == ("ram-mnist", builtin_recipes()["ram-mnist"].command)
    assert call(monkeypatch, "show", "gca", "--channels", "32", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["name"] == "global_context"
    assert shown["aliases"] == aliases_of("global_context")
    assert shown["cost"]["parameters"] == mechanism_cost(sc.spec("global_context"), 32).parameters
    options = {option["name"]: option for option in shown["options"]}
    assert options["fusion"]["choices"] == ["add", "multiply", "both"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "cbma"), "unknown mechanism 'cbma'; did you mean 'cbam'"),
        (("list", "--domain", "chanel"), "unknown domain 'chanel'; did you mean 'channel'?"),
        (("report", "/nowhere"), "/nowhere"),
        (("train", "white-patch", "--seed", "-1"), "seed=-1 must be an integer of at least 0"),
        (("show", "se", "--channels", "3"), "channels=3 must be at least reduction=16"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert not printed.out


def test_train_writes_a_run_and_resumes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("train", TASK, "-a", "se", "--epochs", "1", "--batch-size", "20", "--out", str(tmp_path))
    assert call(monkeypatch, *command, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert call(monkeypatch, *command) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert call(monkeypatch, *command, "--resume") == 0
    assert f"test error {result['error']:.2%} of 20 images" in capsys.readouterr().out


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from saccade.cli import main; sys.argv = ['saccade', '--help']\n"
        "try: main()\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
