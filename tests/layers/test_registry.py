"""The registry: built-in mechanisms by file name, imported when needed; registered ones; plugins."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from torch import nn

import saccade as sc
from saccade import plugins
from saccade.layers import registry
from saccade.layers.spec import Domain
from support.errors import raises

FOLDER = Path(registry.__file__).parent
FILES = {path.stem: path.parent.name for path in FOLDER.glob("*/*.py") if path.stem != "__init__"}


def test_names_are_those_of_the_files() -> None:
    assert sc.mechanisms() == sorted(FILES)
    assert {"cbam", "se", "multi_head"} <= FILES.keys()
    for domain in {*FILES.values()}:
        expected = sorted(name for name, folder in FILES.items() if folder == domain)
        assert sc.mechanisms(domain=domain) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_spec_agrees_with_its_file(name: str) -> None:
    assert (sc.spec(name).name, sc.spec(name).domain) == (name, FILES[name])


@pytest.fixture(scope="module")
def loaded_modules() -> list[set[str]]:
    """The modules of a new process after the import, after the names, and after a spec was asked for."""
    code = """
import sys, saccade as sc, saccade.testing
print(*sys.modules)
sc.mechanisms(), sc.mechanisms(domain="channel")
print(*sys.modules)
sc.spec("se")
print(*sys.modules)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [set(line.split()) for line in process.stdout.splitlines()]


def test_a_mechanism_is_loaded_when_it_is_asked_for(loaded_modules: list[set[str]]) -> None:
    paths = {f"saccade.layers.{domain}.{name}" for name, domain in FILES.items()}
    loaded_mechanisms = [modules & paths for modules in loaded_modules]
    assert loaded_mechanisms == [set(), set(), {"saccade.layers.channel.se"}]


def test_importing_the_package_brings_torch_and_nothing_heavier(loaded_modules: list[set[str]]) -> None:
    heavy = {"torchvision", "timm", "lightning", "pytest", "matplotlib", "skimage", "yaml", "typer"}
    assert not heavy & loaded_modules[0]


def test_an_unknown_name_gets_suggestions() -> None:
    # without `support.errors.raises`, which keeps sentences: these change with each new mechanism
    with pytest.raises(sc.UnknownName, match="unknown mechanism 'cbma'; did you mean 'cbam'"):
        sc.spec("cbma")
    with pytest.raises(sc.UnknownName) as unknown:
        sc.create("zzz", 32)
    assert (unknown.value.kind, unknown.value.value) == ("mechanism", "zzz")
    assert unknown.value.choices == tuple(sc.mechanisms())
    assert f"the nearest of {len(sc.mechanisms())} names are" in str(unknown.value)
    with raises(sc.UnknownName, kind="option of se", owner="se", value="reductoin") as caught:
        sc.create("se", 32, reductoin=4)
    assert str(caught.value).endswith("did you mean 'reduction'?")
    domains = get_args(Domain)
    with raises(sc.BadOption, owner="mechanisms", option="domain", value="color", choices=domains):
        sc.mechanisms(domain="color")  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [0, -8, 3.0, True, "32", None], ids=repr)
def test_channels_must_be_a_positive_integer(channels: Any) -> None:
    with raises(sc.BadOption, owner="se", option="channels", value=channels):
        sc.create("se", channels)


def test_a_choice_must_be_one_of_those_in_the_signature() -> None:
    choices = ("linear", "conv1d", "conv2d")
    with raises(sc.BadOption, owner="multi_head", option="projection", value="mlp", choices=choices):
        sc.create("multi_head", 32, projection="mlp")


def test_options_are_read_from_the_signature() -> None:
    options = {option.name: option for option in sc.spec("multi_head").options}
    assert [*options][:3] == ["heads", "projection", "kernel_size"]
    assert (options["heads"].default, options["heads"].annotation) == (8, int)
    assert options["projection"].choices == ("linear", "conv1d", "conv2d")
    assert options["heads"].choices == ()
    assert sc.spec("scaled_dot_product").options == ()


def test_dims_and_drop_in_follow_from_the_examples() -> None:
    assert sc.spec("se").dims == (1, 2, 3)
    assert sc.spec("multi_head").drop_in
    assert not sc.spec("scaled_dot_product").drop_in
    assert sc.spec("scaled_dot_product").dims == ()


class Mine(nn.Module):
    def __init__(self, channels: int, strength: float = 1.0) -> None:
        super().__init__()
        self.channels, self.strength = channels, strength


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> sc.Spec:
    monkeypatch.setattr(registry, "_registered", {})
    return dataclasses.replace(sc.spec("se"), name="mine", domain="branch", module=Mine)


def test_a_registered_mechanism_is_known_everywhere(mine: sc.Spec) -> None:
    sc.register(mine)
    assert "mine" in sc.mechanisms()
    assert "mine" in sc.mechanisms(domain="branch")
    assert "mine" not in sc.mechanisms(domain="channel")
    assert sc.spec("mine") is mine
    created = sc.create("mine", 8, strength=0.5)
    assert isinstance(created, Mine)
    assert (created.channels, created.strength) == (8, 0.5)
    with raises(sc.UnknownName, kind="mechanism", value="mien") as caught:
        sc.spec("mien")
    assert str(caught.value).endswith("did you mean 'mine'?")


def test_a_name_is_taken_once(mine: sc.Spec) -> None:
    sc.register(mine)
    for taken in (mine, dataclasses.replace(mine, name="cbam")):
        with raises(sc.BadOption, owner="register", option="name", value=taken.name):
            sc.register(taken)
    assert sc.spec("cbam").module is not Mine


def test_a_domain_must_be_one_of_the_known(mine: sc.Spec) -> None:
    with raises(sc.BadOption, owner="mine", option="domain", value="color", choices=get_args(Domain)):
        sc.register(dataclasses.replace(mine, domain="color"))  # type: ignore[arg-type]
    assert "mine" not in sc.mechanisms()


def test_text_with_options_is_created() -> None:
    assert sc.create("channel_gate:reduction=4,pools=[max]", 32).pools == ("max",)


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Declare entry points of the group `saccade.mechanisms` in a package named "example"."""

    def declare(entries: str, package: str = "example") -> None:
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[saccade.mechanisms]\n{entries}")
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        clear()

    def clear() -> None:
        plugins._entries.cache_clear()
        plugins.load.cache_clear()

    yield declare
    monkeypatch.undo()
    clear()


def test_a_plugin_does_not_replace_a_built_in_mechanism(install: Install) -> None:
    install("cbam = no_such_module:SPEC\n")
    with pytest.warns(UserWarning, match=r"'cbam' of 'example' is ignored, since 'cbam' is built in"):
        assert sc.mechanisms() == sorted(FILES)
    assert sc.spec("cbam").paper.year == 2018


def test_of_two_plugins_with_one_name_the_first_is_used(install: Install, tmp_path: Path) -> None:
    (tmp_path / "gates.py").write_text(GATES)
    install("gate = gates:SPEC\n")
    install("gate = no_such_module:SPEC\n", "other")
    with pytest.warns(UserWarning, match=r"saccade.mechanisms: 'gate' of '(example|other)' is ignored"):
        assert "gate" in sc.mechanisms()


def test_a_plugin_that_fails_disturbs_no_other(install: Install, tmp_path: Path) -> None:
    (tmp_path / "gates.py").write_text(GATES)
    install("gate = gates:SPEC\nbroken = no_such_module:SPEC\nwrong = gates:WRONG\nalien = gates:ALIEN\n")
    assert {"gate", "broken", "wrong", "alien"} <= {*sc.mechanisms()}  # names need no import
    with pytest.warns(
        UserWarning, match="plugin 'broken' of 'example' cannot be loaded: ModuleNotFoundError"
    ):
        assert "gate" in sc.mechanisms("branch")
    with pytest.warns(UserWarning, match="'wrong' of saccade.mechanisms must be a Spec"):
        names = [spec.name for spec in registry.specs()]
    assert names == sorted([*FILES, "gate"])
    assert isinstance(sc.create("gate", 8, reduction=2), nn.Module)
    with raises(sc.BadOption, owner="example", option="saccade.mechanisms", value="no_such_module:SPEC"):
        sc.create("broken", 8)
    with raises(sc.BadOption, owner="wrong", option="saccade.mechanisms", value=3):
        sc.spec("wrong")
    with raises(sc.BadOption, owner="alien", option="domain", value="color"):
        sc.spec("alien")
    with raises(sc.UnknownName, owner="saccade.mechanisms", value="gaet") as caught:
        plugins.load("saccade.mechanisms", "gaet")
    assert "'gate'" in str(caught.value)


GATES = """
import dataclasses
import saccade as sc

SPEC = dataclasses.replace(sc.spec("se"), name="gate", domain="branch")
ALIEN = dataclasses.replace(SPEC, name="alien", domain="color")
WRONG = 3
"""
