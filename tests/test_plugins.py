"""A package of a third party, installed for real: every process knows what its entry points add."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from saccade import plugins
from saccade.errors import BadOption
from support.errors import raises
from support.forked import COMMAND, ForkServer

PLUGIN = Path(__file__).parent / "support" / "plugin"
Run = Callable[..., str]
pytestmark = [pytest.mark.slow, pytest.mark.process]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Install the plugin; return the value of PYTHONPATH with which it is found."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--no-index", "--target", str(site), str(PLUGIN)], check=True)
    return os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="module")
def run(path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run the command line, or other code, in a process of an environment that has the plugin."""
    folder = tmp_path_factory.mktemp("plugin") / "work"
    server = ForkServer({"PYTHONPATH": path})

    def started(*words: str, code: str = COMMAND) -> str:
        outcome = server.run(words, folder, code=code, timeout=100)
        assert outcome.code == 0, outcome.error
        return outcome.output

    yield started
    server.close()


COMPARE = ("compare", "stripes:size=16", "-a", "none", "-a", "mean_gate", "--seeds", "1")
SHORT = ("--epochs", "1", "--batch-size", "10", "--json")


def attentions(printed: str) -> list[str]:
    return [row["attention"] for row in json.loads(printed)["leaderboard"]]


def test_the_mechanism_is_created_listed_and_shown(run: Run) -> None:
    code = """
import saccade as sc
from saccade.cli import app
print(sc.create("mean_gate", 8), "mean_gate" in sc.mechanisms("spatial"), end="---")
app(["list"], standalone_mode=False)
print("---")
app(["show", "mean_gate"], standalone_mode=False)
"""
    created, listed, shown = run(code=code).split("---")
    assert created.startswith("MeanGate")
    assert created.endswith("True")
    assert "mean_gate" in listed
    assert "saccade_plugin_example.mean_gate" in shown


def test_the_mechanism_keeps_the_behavior_and_owes_no_documentation(run: Run) -> None:
    code = """
import saccade as sc
from saccade.testing import HOUSE_CHECKS, ContractFailure, check_mechanism
check_mechanism(sc.spec("mean_gate"))
try:
    for check in HOUSE_CHECKS:
        check(sc.spec("mean_gate"))
except ContractFailure as failure:
    print(failure)
"""
    assert "a paper with title and authors" in run(code=code)


def test_processes_train_it_and_a_run_can_be_looked_at(run: Run) -> None:
    words = (*COMPARE, *SHORT, "--out", "compared", "--executor", "processes", "--jobs", "1")
    assert attentions(run(*words)) == ["none", "mean_gate"]
    code = """
from saccade.cli import app
app(["look", "compared/runs/mean_gate-seed0", "--out", "looked"], standalone_mode=False)
print("---")
app(["evaluate", "compared/runs/mean_gate-seed0", "--json"], standalone_mode=False)
"""
    looked, evaluated = run(code=code).split("---")
    assert "look.html" in looked
    assert json.loads(evaluated)["attention"] == "mean_gate"


@pytest.mark.ray
def test_a_cluster_trains_it(path: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "saccade", *COMPARE, *SHORT, "--out", "over-ray", "--executor", "ray"]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}  # Ray does not start in a fork
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert attentions(process.stdout) == ["none", "mean_gate"]


def test_the_objective_trains(run: Run) -> None:
    words = ("train", "stripes", "--set", "objective=classify_twice", *SHORT)
    assert json.loads(run(*words, "--out", "twice"))["attention"] == "none"


def test_the_adapter_is_seen(run: Run) -> None:
    code = """
import torch, saccade as sc, saccade_plugin_example as plugin
model = torch.nn.Sequential(plugin.Gate())
with sc.record(model) as maps:
    model(torch.rand(1, 3, 4, 4))
print(maps["0"].kind)
"""
    assert run(code=code) == "spatial\n"


def test_a_plugin_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[saccade.mechanisms]\nnothing = no_such_module:SPEC\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins._entries.cache_clear()
    try:
        assert plugins.names("saccade.mechanisms") == ["nothing"]
        with raises(BadOption, owner="broken", option="saccade.mechanisms", value="no_such_module:SPEC"):
            plugins.load("saccade.mechanisms", "nothing")
    finally:
        plugins._entries.cache_clear()
