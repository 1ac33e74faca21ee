"""The registry: names from files, loaded when asked for, and the little language of the command line."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import saccade as sc
from saccade.grammar import parse
from saccade.layers import registry

FOLDER = Path(registry.__file__).parent
FILES = {path.stem: path.parent.name for path in FOLDER.glob("*/*.py") if path.stem != "__init__"}


def test_names_are_those_of_the_files() -> None:
    assert sc.mechanisms() == sorted(FILES)
    assert {"cbam", "se", "multi_head"} <= FILES.keys()
    for domain in {*FILES.values()}:
        expected = sorted(name for name, its in FILES.items() if its == domain)
        assert sc.mechanisms(domain=domain) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_spec_agrees_with_its_file(name: str) -> None:
    assert (sc.spec(name).name, sc.spec(name).domain) == (name, FILES[name])


def run(code: str) -> str:
    """Run Python code in a fresh process; return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_mechanism_is_loaded_when_it_is_asked_for() -> None:
    code = """if True:
        import sys, saccade as sc
        def loaded():
            depths = [name.split(".") for name in sys.modules if name.startswith("saccade.layers.")]
            return sorted(parts[-1] for parts in depths if len(parts) == 4)
        sc.mechanisms(), sc.mechanisms(domain="channel")
        print(loaded())
        sc.spec("se")
        print(loaded())
    """
    assert run(code).splitlines() == ["[]", "['se']"]


def test_importing_the_package_brings_torch_and_nothing_heavier() -> None:
    heavy = ["torchvision", "timm", "lightning", "pytest", "matplotlib", "skimage", "yaml", "typer"]
    code = f"import sys, saccade, saccade.testing; print([name for name in {heavy} if name in sys.modules])"
    assert run(code) == "[]"


def test_an_unknown_name_gets_suggestions() -> None:
    with pytest.raises(sc.UnknownName, match=r"^unknown mechanism 'cbma'; did you mean 'cbam'"):
        sc.spec("cbma")
    with pytest.raises(sc.UnknownName, match=r"choose from .*'cbam'"):
        sc.create("zzz", 32)
    with pytest.raises(sc.UnknownName, match=r"^unknown option of se 'reductoin'; did you mean 'reduction'"):
        sc.create("se", 32, reductoin=4)
    with pytest.raises(sc.BadOption, match="domain='color' is not one of 'channel', 'spatial'"):
        sc.mechanisms(domain="color")  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [0, -8, 3.0, True, "32", None], ids=repr)
def test_channels_must_be_a_positive_integer(channels: Any) -> None:
    with pytest.raises(sc.BadOption, match=rf"se: channels={channels!r} must be an integer of at least 1"):
        sc.create("se", channels)


def test_a_choice_must_be_one_of_those_in_the_signature() -> None:
    with pytest.raises(sc.BadOption, match="multi_head: projection='mlp' is not one of 'linear', 'conv1d'"):
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
    with pytest.raises(sc.UnknownName, match="did you mean 'mine'"):
        sc.spec("mien")


def test_a_name_is_taken_once(mine: sc.Spec) -> None:
    sc.register(mine)
    for taken in (mine, dataclasses.replace(mine, name="cbam")):
        with pytest.raises(sc.BadOption, match=f"a mechanism named '{taken.name}' exists already"):
            sc.register(taken)
    assert sc.spec("cbam").module is not Mine


def test_a_domain_must_be_one_of_the_known(mine: sc.Spec) -> None:
    with pytest.raises(sc.BadOption, match="mine: domain='color'"):
        sc.register(dataclasses.replace(mine, domain="color"))  # type: ignore[arg-type]
    assert "mine" not in sc.mechanisms()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("se", ("se", {})),
        (" se ", ("se", {})),
        ("none", ("none", {})),
        ("se:reduction=8", ("se", {"reduction": 8})),
        ("se: reduction = 8 , bias = false", ("se", {"reduction": 8, "bias": False})),
        ("se:bias=True", ("se", {"bias": True})),
        ("a:x=-1,y=0.5,z=1e-3", ("a", {"x": -1, "y": 0.5, "z": 1e-3})),
        ("multi_head:position=none", ("multi_head", {"position": "none"})),
        ("multi_head:tokens=None", ("multi_head", {"tokens": None})),
        ("multi_head:projection='conv1d'", ("multi_head", {"projection": "conv1d"})),
        ("channel_gate:pools=[avg,max]", ("channel_gate", {"pools": ["avg", "max"]})),
        ("a:pools=['avg', 'max'],reduction=4", ("a", {"pools": ["avg", "max"], "reduction": 4})),
        ("channel_gate:pools=(avg,)", ("channel_gate", {"pools": ["avg"]})),
        ("a:x=[]", ("a", {"x": []})),
        ("a:x=[1, 2],y=[[3], 4]", ("a", {"x": [1, 2], "y": [[3], 4]})),
        ("a:x=[true, none, 1]", ("a", {"x": [True, "none", 1]})),
        ("a:file=weights=1", ("a", {"file": "weights=1"})),
        ("a:x='b c'", ("a", {"x": "b c"})),
    ],
)  # fmt: skip
def test_parse(text: str, expected: tuple[str, dict[str, Any]]) -> None:
    got = parse(text)
    assert got == expected
    assert [type(value) for value in got[1].values()] == [type(value) for value in expected[1].values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("se:", "'' does not have the form option=value"),
        ("se:reduction", "'reduction' does not have the form option=value"),
        ("se:reduction=8,", "'' does not have the form"),
        ("se:=8", "'=8' does not have the form"),
        ("se:reduction=", "the value '' is neither a Python literal nor a bare word"),
        ("se:2x=8", "'2x=8' does not have the form"),
        ("se:reduction=8,reduction=4", "option 'reduction' occurs twice"),
        ("a:x=[1,2", "the value '[1,2' is neither"),
        ("a:x=1],y=2", "the value '1],y=2' is neither"),
        ("a:x=[b,,c]", "the value '' is neither"),
        ("a:x='b", "is neither"),
    ],
)
def test_parse_refuses(text: str, message: str) -> None:
    with pytest.raises(sc.BadOption) as caught:
        parse(text)
    assert message in str(caught.value)


def test_what_is_parsed_can_be_created() -> None:
    name, options = parse("channel_gate:reduction=4,pools=[max]")
    assert sc.create(name, 32, **options).pools == ("max",)
