"""`record`: paths, errors, and a model that is restored."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saccade as sc
from support.compiler import needs_compiler
from support.errors import raises


def network() -> nn.Sequential:
    """Return two convolutions with a CBAM and a multi-head attention at paths 1 and 3."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), sc.create("cbam", 16), nn.Conv2d(16, 8, 3), sc.create("multi_head", 8)
    ).eval()


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 9, 8, generator=torch.Generator().manual_seed(batch))


def taps(model: nn.Module) -> Iterator[sc.Tap]:
    return (module for module in model.modules() if isinstance(module, sc.Tap))


def is_idle(model: nn.Module) -> bool:
    return all(not tap.recording and tap.latest is None for tap in taps(model))


def assert_same_map(actual: sc.AttentionMap, expected: sc.AttentionMap) -> None:
    torch.testing.assert_close(actual.saliency(), expected.saliency())


# Paths.


def test_maps_are_found_by_the_path_of_their_mechanism() -> None:
    model = network()
    with sc.record(model) as maps:
        model(images())
    assert [*maps] == ["1.channel", "1.spatial", "3"]
    assert [attention.kind for attention in maps.values()] == ["channel", "spatial", "pairwise"]
    assert repr(maps) == "Maps('1.channel': channel, '1.spatial': spatial, '3': pairwise)"
    assert maps["3"].heatmap((9, 8)).shape == (2, 9, 8)
    assert "3" in maps
    assert "2" not in maps


def test_a_path_stands_for_the_only_placed_map_below_it() -> None:
    model = nn.Sequential(network())
    with sc.record(model) as maps:
        model(images())
    assert maps["0.1"] is maps["0.1.spatial"]  # CBAM: its spatial gate, not its channel gate
    gate = nn.Sequential(sc.create("cbam", 16, spatial=False))
    with sc.record(gate) as maps:
        gate(torch.randn(1, 16, 4, 4))
    assert maps["0"] is maps["0.channel"] is maps[""]
    mixed = nn.ModuleList([sc.create("sk", 32), sc.create("se", 32), sc.create("spatial_gate", 32)]).eval()
    with sc.record(mixed) as maps:
        for layer in mixed:
            layer(torch.randn(1, 32, 4, 4))
    assert [attention.kind for attention in maps.values()] == ["branch", "channel", "spatial"]
    assert maps[""] is maps["2"]  # weights of branches belong to no place, as those of channels
    alone = sc.create("se", 16)
    with sc.record(alone) as maps:
        alone(torch.randn(1, 16, 4, 4))
    assert [*maps] == [""]


def test_a_path_that_stands_for_several_maps_must_be_completed() -> None:
    model = nn.Sequential(network())
    with sc.record(model) as maps:
        model(images())
    with raises(sc.BadOption, option="path", value="0", choices=("0.1.channel", "0.1.spatial", "0.3")):
        maps["0"]
    gates = nn.ModuleDict({"a": sc.create("se", 16), "b": sc.create("channel_gate", 16)})
    with sc.record(gates) as maps:
        for gate in gates.values():
            gate(torch.randn(1, 16, 4, 4))
    with raises(sc.BadOption, option="path", value="", choices=("a", "b")):
        maps[""]


def test_an_unknown_path_gets_suggestions() -> None:
    model = network()
    with sc.record(model) as maps:
        model(images())
    with raises(sc.UnknownName, kind="recorded map", value="1.spatail", choices=tuple(maps)):
        maps["1.spatail"]
    with raises(sc.UnknownName, kind="recorded map", value="1.spat"):  # not a prefix of letters
        maps["1.spat"]
    with raises(sc.UnknownName, kind="recorded map", value="2"):
        maps["2"]


def test_what_a_path_returns_is_in_the_maps() -> None:
    model = nn.Sequential(network())
    with sc.record(model) as maps:
        model(images())
    recorded = ["0.1.channel", "0.1.spatial", "0.3"]
    assert [*maps] == recorded
    assert len(maps) == len(recorded)
    for path in (*recorded, "0.1"):  # "0.1" stands for the only placed map below it
        assert path in maps
        assert maps.get(path) is maps[path]
    fallback = maps["0.3"]
    for path in ("0", "", "0.2", "0.1.spat", "2"):  # several maps, and none
        assert path not in maps
        assert maps.get(path) is None
        assert maps.get(path, fallback) is fallback
    number: Any = 3
    assert number not in maps
    assert "0.1" in maps.keys()  # noqa: SIM118


def test_maps_can_be_read_inside_the_block_and_are_those_of_the_latest_pass() -> None:
    model = network()
    with sc.record(model) as maps:
        assert len(maps) == 0
        model(images(2))
        first = maps["3"]
        model(images(5))
        assert maps["3"] is not first
    assert first.heatmap().shape[0] == 2
    assert maps["3"].heatmap().shape[0] == 5


def test_a_mechanism_that_did_not_run_has_no_map() -> None:
    model = network()
    with sc.record(model) as maps:
        model[:2](images())
    assert [*maps] == ["1.channel", "1.spatial"]


def test_maps_of_one_block_do_not_change_in_the_next() -> None:
    model = network()
    with sc.record(model) as before:
        model(images(2))
    kept = before["3"]
    with sc.record(model) as after:
        model(images(3))
    assert before["3"] is kept
    assert after["3"] is not kept
    with raises(sc.NothingRecorded, owner="record", value="Sequential"), sc.record(model):
        pass  # an earlier map must not count as recorded now
    assert before["3"] is kept


def test_a_part_of_a_model_can_be_recorded() -> None:
    model = network()
    with sc.record(model[3]) as maps:
        model(images())
    assert [*maps] == [""]
    assert is_idle(model)


def test_a_module_in_two_places_is_recorded_once() -> None:
    gate = sc.create("se", 16)
    model = nn.Sequential(gate, gate)
    with sc.record(model) as maps:
        model(torch.randn(1, 16, 4, 4))
    assert [*maps] == ["0"]


# Errors.


def test_a_model_without_mechanisms_is_refused_at_once() -> None:
    entered = False
    with raises(sc.NothingRecorded, owner="record", value="Conv2d"):  # noqa: SIM117
        with sc.record(nn.Conv2d(3, 3, 1)):
            entered = True
    assert not entered


def test_a_block_in_which_nothing_ran_is_an_error() -> None:
    model = network()
    with raises(sc.NothingRecorded, owner="record", value="Sequential"), sc.record(model):
        pass
    assert is_idle(model)


def test_a_copy_that_ran_in_place_of_the_model_is_named() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = sc.create("se", 16, reduction=4)

        def forward(self, x: Tensor) -> Tensor:
            return self.gate(x)  # type: ignore[no-any-return]

    model, x = Network(), torch.randn(1, 16, 4, 4)
    with raises(sc.NothingRecorded, owner="record", value="Network") as caught, sc.record(model):
        copy.deepcopy(model)(x)
    assert "a copy of it" in str(caught.value)


@pytest.mark.parametrize("calls", [0, 1])
def test_an_exception_passes_unmasked(calls: int) -> None:
    model = network()
    with pytest.raises(ZeroDivisionError), sc.record(model) as maps:  # noqa: PT012
        for _ in range(calls):
            model(images())
        raise ZeroDivisionError
    assert is_idle(model)
    assert len(maps) == 3 * calls  # the maps from before the exception are kept


def test_an_exception_of_the_model_passes_unmasked() -> None:
    model = network()
    with raises(sc.BadShape), sc.record(model):
        model[1](torch.randn(1, 3, 4, 4))
    assert is_idle(model)


def test_a_second_recording_inside_the_first_is_refused_and_does_not_end_it() -> None:
    model = network()
    with sc.record(model) as maps:
        with raises(sc.BadOption, owner="record", option="model"), sc.record(model[3]):
            pass
        model(images())
    assert len(maps) == 3
    assert is_idle(model)


def test_two_models_can_be_recorded_at_once() -> None:
    first, second = network(), network()
    with sc.record(first) as first_maps, sc.record(second) as second_maps:
        first(images(2))
        second(images(3))
    assert (first_maps["3"].heatmap().shape[0], second_maps["3"].heatmap().shape[0]) == (2, 3)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # torch's own
def test_a_scripted_model_is_refused() -> None:
    scripted = torch.jit.trace(nn.Conv2d(3, 3, 1), images())
    with raises(sc.BadOption, owner="record", option="model"), sc.record(scripted):
        pass


# The model is restored.


def test_results_are_the_same_and_no_hook_is_used() -> None:
    model = network()
    expected = model(images())
    with sc.record(model):
        assert torch.equal(model(images()), expected)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(images()), expected)
    assert is_idle(model)


def test_maps_are_detached_in_training() -> None:
    model = network().train()
    with sc.record(model) as maps:
        model(images()).sum().backward()
    for attention in maps.values():
        tensors = [value for value in vars(attention).values() if isinstance(value, Tensor)]
        assert tensors
        assert not any(value.requires_grad for value in tensors)


def test_recording_works_without_gradients() -> None:
    model = network()
    with sc.record(model) as with_gradients:
        model(images())
    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), sc.record(model) as maps:
            model(images())
        for path, attention in maps.items():
            assert_same_map(attention, with_gradients[path])


def test_recording_works_under_autocast() -> None:
    model = network()
    with torch.autocast("cpu", torch.bfloat16), sc.record(model) as maps:
        assert model(images()).dtype is torch.bfloat16
    assert [*maps] == ["1.channel", "1.spatial", "3"]
    for attention in maps.values():
        assert attention.heatmap().isfinite().all()


def test_a_model_can_be_copied_while_and_after_it_is_recorded() -> None:
    model = network()
    with sc.record(model) as maps:
        model(images())
        during = copy.deepcopy(maps["1.spatial"])
    twin = copy.deepcopy(model)
    with sc.record(twin) as twin_maps:
        twin(images())
    assert is_idle(model)
    assert is_idle(twin)
    assert_same_map(twin_maps["3"], maps["3"])
    assert_same_map(during, maps["1.spatial"])


# Compiled models.


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize(
    ("how", "backend"),
    [pytest.param("torch.compile", "inductor", marks=needs_compiler), ("model.compile", "aot_eager")],
)
def test_a_compiled_model_can_be_recorded_even_after_it_has_run(how: str, backend: str) -> None:
    model = network()
    expected = model(images())
    with sc.record(model) as eager:
        model(images())
    compiled: Any = model
    if how == "torch.compile":
        compiled = torch.compile(model, fullgraph=True, backend=backend)
    else:
        model.compile(fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(images()), expected)  # compiled before the recording
    with sc.record(compiled) as maps:
        torch.testing.assert_close(compiled(images()), expected)
    assert [*maps] == [*eager]  # the same paths
    for path in eager:
        torch.testing.assert_close(maps[path].saliency(), eager[path].saliency(), rtol=1e-4, atol=1e-5)
    assert is_idle(compiled)
    torch.testing.assert_close(compiled(images()), expected)
    with raises(sc.NothingRecorded, owner="record"), sc.record(compiled):
        pass


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_compiled_part_keeps_its_path() -> None:
    model = network()
    model[1].compile(backend="eager")
    model[3] = torch.compile(model[3], backend="eager")  # type: ignore[assignment]
    model(images())
    with sc.record(model) as maps:
        model(images())
    assert [*maps] == ["1.channel", "1.spatial", "3"]
    assert maps["1"] is maps["1.spatial"]
