"""Each private part of PyTorch that `saccade._torch` uses still does what the package needs."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from saccade import _torch


def test_orig_mod_is_the_level_of_a_compiled_module() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    compiled = torch.compile(module)
    assert isinstance(compiled, nn.Module)
    assert [path for path, _ in compiled.named_modules()] == ["", _torch.COMPILED, f"{_torch.COMPILED}.0"]
    assert _torch.uncompiled(compiled) is module
    assert _torch.uncompiled(module) is module
    assert _torch.is_compiled(compiled)
    assert not _torch.is_compiled(module)


def test_compiled_call_impl_tells_a_module_compiled_in_place() -> None:
    module = nn.Linear(2, 2)
    assert not _torch.is_compiled(module)
    module.compile()
    assert _torch.is_compiled(module)


def test_forward_hooks_hold_what_was_registered() -> None:
    module = nn.Linear(2, 2)
    handle = module.register_forward_hook(print)
    assert [*_torch.forward_hooks(module).values()] == [print]
    for key in [*_torch.forward_hooks(module)]:
        del _torch.forward_hooks(module)[key]
    module(torch.zeros(1, 2))
    handle.remove()  # a second removal does nothing


def test_forward_pre_hooks_hold_what_was_registered() -> None:
    module = nn.Linear(2, 2)
    module.register_forward_pre_hook(print)
    assert [*_torch.forward_pre_hooks(module).values()] == [print]


def test_hooks_are_attributes_of_every_module() -> None:
    module = nn.Linear(2, 2)
    module.register_forward_hook(print)
    module.register_forward_pre_hook(print)
    module.register_full_backward_hook(print)
    assert [len(vars(module)[hooks]) for hooks in _torch.HOOKS] == [1, 1, 1]


def test_transforms_are_seen() -> None:
    x = torch.ones(2)
    seen: list[bool] = []

    def note(x: Tensor) -> Tensor:
        seen.append(_torch.is_transformed())
        return x.sum()

    note(x)
    torch.func.vmap(note)(x[None])
    torch.func.grad(note)(x)
    with torch.autograd.forward_ad.dual_level():
        note(x)
    with FlopCounterMode(display=False):
        note(x)
    note(x)
    assert seen == [False, True, True, True, True, False]


def test_what_runs_beside_the_forward_pass_of_a_module_is_seen() -> None:
    def plain() -> bool:
        return _torch.runs_as_defined(module, nn.Linear)

    module = nn.Linear(2, 2)
    assert plain()
    assert not _torch.runs_as_defined(module, nn.Module)
    for register in (
        module.register_forward_hook,
        module.register_forward_pre_hook,
        module.register_full_backward_hook,
        module.register_full_backward_pre_hook,
        nn.modules.module.register_module_forward_hook,
    ):
        handle = register(print)
        assert not plain()
        handle.remove()
        assert plain()
    module.compile()
    assert not plain()
    module = nn.Linear(2, 2)
    module.forward = module.forward  # type: ignore[method-assign]
    assert not plain()


def test_version_counts_changes_in_place() -> None:
    x = torch.zeros(2)
    before = _torch.version(x)
    x.add_(1)
    assert _torch.version(x) == before + 1
    with torch.inference_mode():
        assert _torch.version(torch.zeros(2).add_(1)) == 0


def test_pytree_leaves_and_map_reach_into_containers() -> None:
    nested = {"a": [1, (2, 3)], "b": 4}
    assert _torch.tree_leaves(nested) == [1, 2, 3, 4]
    assert _torch.tree_map(lambda leaf: leaf + 1, nested) == {"a": [2, (3, 4)], "b": 5}


def test_dispatch_mode_sees_the_operations_below_autograd() -> None:
    names: list[str] = []

    class Names(_torch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(str(function))
            return function(*args, **kwargs or {})

    with Names():  # type: ignore[no-untyped-call]
        torch.zeros(2).add(1)
    assert names == ["aten.zeros.default", "aten.add.Tensor"]


def test_weak_dictionary_forgets_tensors() -> None:
    names = _torch.WeakTensorKeyDictionary()
    kept, gone = torch.zeros(2), torch.zeros(2)
    names[kept], names[gone] = "kept", "gone"
    assert (names[kept], names[gone]) == ("kept", "gone")  # by identity, not by value
    del gone
    gc.collect()
    assert len(names) == 1


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(1, 1, 1),
        nn.Conv3d(1, 1, 1),
        nn.ConvTranspose2d(1, 1, 1),
        nn.MaxPool2d(2),
        nn.AvgPool1d(2),
        nn.AdaptiveAvgPool2d(2),
        nn.AdaptiveMaxPool3d(2),
    ],
)
def test_feature_layers_are_convolutions_and_poolings(layer: nn.Module) -> None:
    assert isinstance(layer, _torch.FEATURE_LAYERS)
    assert not isinstance(nn.Linear(1, 1), _torch.FEATURE_LAYERS)


def test_sa_block_is_how_an_encoder_layer_calls_its_attention() -> None:
    calls: list[Tensor] = []

    class Changed(nn.TransformerEncoderLayer):
        def _sa_block(self, x: Tensor, *args: object, **options: object) -> Tensor:
            calls.append(x)
            return super()._sa_block(x, *args, **options)  # type: ignore[arg-type]

    changed = Changed(8, 2, 8, batch_first=True)
    assert _torch.has_own_attention_block(changed)
    assert not _torch.has_own_attention_block(nn.TransformerEncoderLayer(8, 2, 8))
    changed(torch.zeros(1, 3, 8))
    assert len(calls) == 1


def test_aot_eager_is_a_backend() -> None:
    torch.compiler.reset()
    x = torch.randn(3)
    compiled = torch.compile(lambda x: x.sin() + 1, backend=_torch.aot_eager, fullgraph=True)
    torch.testing.assert_close(compiled(x), x.sin() + 1)
    torch.compiler.reset()


def test_mod_tracker_is_what_a_flop_counter_enters() -> None:
    class Token(nn.Module):
        """A parameter is the input of a module."""

        def __init__(self) -> None:
            super().__init__()
            self.token, self.layer = nn.Parameter(torch.ones(1, 3)), nn.Linear(3, 4)

        def forward(self) -> Tensor:
            return self.layer(self.token)  # type: ignore[no-any-return]

    counter = FlopCounterMode(display=False)
    assert isinstance(counter.mod_tracker, ModuleTracker)
    with torch.no_grad(), _torch.count_whole_model(counter):
        Token()()
    assert counter.get_total_flops() == 2 * 3 * 4


def test_graph_task_is_the_number_of_a_backward_pass() -> None:
    class Noted(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, x: Tensor) -> Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(_: Any, *gradients: Tensor) -> Tensor:
            tasks.append(_torch.graph_task())
            return gradients[0]

    tasks: list[int] = []
    x = torch.ones(3, requires_grad=True)
    y = Noted.apply(Noted.apply(x)).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert tasks[0] == tasks[1] != tasks[2] == tasks[3]


def test_a_hook_of_all_modules_leaves_nothing_behind() -> None:
    seen: list[object] = []
    module = nn.Linear(2, 2)
    handle = _torch.register_forward_hook_of_all(lambda *given: seen.append(given[2]))
    module(input=torch.zeros(1, 2))
    assert not _torch.runs_as_defined(module, nn.Linear)
    handle.remove()
    module(torch.zeros(1, 2))
    assert len(seen) == 1
    assert "input" in seen[0]  # type: ignore[operator]
    assert _torch.runs_as_defined(module, nn.Linear)


def test_the_operator_of_flex_attention_shows_itself_to_modes_while_it_is_compiled() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    class Mode(torch.overrides.TorchFunctionMode):
        traced: tuple[Any, ...] = ()

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if torch.compiler.is_compiling() and func is _torch.FLEX_ATTENTION:
                self.traced = args[:6]  # repeated whenever the compiled code runs
            return func(*args, **(kwargs or {}))

    x, run = torch.randn(1, 1, 8, 4), torch.compile(flex_attention, backend="aot_eager")
    for _ in range(2):
        mode = Mode()
        with torch.no_grad(), mode:
            run(x, x, x, scale=0.7)
        query, _, _, score_mod, block_mask, scale = mode.traced
        assert query is x
        assert scale == 0.7
        assert _torch.is_default_of_flex_attention(score_mod)
        assert _torch.is_default_of_flex_attention(block_mask[-1])
    assert not _torch.is_default_of_flex_attention(print)


def test_indexing_by_tensors_without_axes_is_a_gather() -> None:
    table, index = torch.arange(6.0).reshape(2, 3), torch.arange(2)

    def of_each(i: Tensor) -> Tensor:
        return table[i][i + 1]

    with _torch.index_by_tensors():
        assert torch.vmap(of_each)(index).tolist() == [1.0, 5.0]


def test_a_function_that_runs_as_written_is_compiled_as_a_part_of_its_caller_alone() -> None:
    from torch._dynamo.testing import CompileCounter

    @_torch.run_as_written
    def own(x: Tensor) -> Tensor:
        return x.sin() + 1

    counter, x = CompileCounter(), torch.randn(3)
    assert torch.equal(torch.compile(own, backend=counter)(x), own(x))
    assert counter.frame_count == 0
    compiled = torch.compile(lambda x: 2 * own(x), backend=counter, fullgraph=True)
    assert torch.equal(compiled(x), 2 * own(x))
    assert counter.frame_count == 1


def test_compiled_functions_run_as_they_are_written_for_a_while() -> None:
    from torch._dynamo.testing import CompileCounter

    counter, x = CompileCounter(), torch.randn(3)
    compiled = torch.compile(torch.sin, backend=counter)
    with _torch.without_compilation():
        compiled(x)
    assert counter.frame_count == 0
    compiled(x)
    assert counter.frame_count == 1
