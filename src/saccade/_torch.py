"""Every private or undocumented part of PyTorch that the package uses, each behind one name.

`tests/test_torch_private.py` holds one test for each, so that a release of PyTorch that changes one of them
fails by name.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch._C._dynamo import eval_frame
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode  # seen in torch 2.10 to 2.15
from torch.utils._pytree import tree_leaves as tree_leaves  # seen in torch 2.10 to 2.15
from torch.utils._pytree import tree_map as tree_map
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary as WeakTensorKeyDictionary  # seen in torch 2.10 to 2.15

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: The level that torch.compile inserts into module paths. Seen in torch 2.10 to 2.15.
COMPILED = "_orig_mod"

#: The operator that `flex_attention` calls. Seen in torch 2.10 to 2.15.
FLEX_ATTENTION = torch.ops.higher_order.flex_attention

#: Attributes that hold the hooks of a module. Seen in torch 2.10 to 2.15.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")

#: Base classes of the layers that return feature maps. Seen in torch 2.10 to 2.15.
FEATURE_LAYERS = (
    nn.modules.conv._ConvNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)


class _WholeModel:
    """Stands for the tracker of modules of a `FlopCounterMode`."""

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def count_whole_model(counter: Any) -> Any:
    """Return a `FlopCounterMode` that counts a model as a whole, and not its modules.

    The original tracker hooks every module for the backward pass. It fails where a parameter is the input of
    a module in a pass without gradients, as the class token of CaiT is. Seen in torch 2.10 to 2.15.
    """
    counter.mod_tracker = _WholeModel()
    return counter


def graph_task() -> int:
    """Return the number of the backward pass that calls. Seen in torch 2.10 to 2.15."""
    return torch._C._current_graph_task_id()


def tensors_in(tree: Any) -> list[Tensor]:
    """Return the tensors in nested containers."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the module that torch.compile wraps, or the model itself if it is not wrapped."""
    module: nn.Module = getattr(model, COMPILED, model)
    return module


def is_compiled(module: nn.Module) -> bool:
    """Return whether `torch.compile(module)` or `module.compile()` made this module."""
    return COMPILED in module._modules or module._compiled_call_impl is not None  # seen in torch 2.10 to 2.15


def is_transformed() -> bool:
    """Return whether `torch.func`, forward-mode differentiation or a dispatch mode transforms operations."""
    return (
        torch._C._are_functorch_transforms_active()  # all three: seen in torch 2.10 to 2.15
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
    )


def runs_as_defined(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether a call of the module runs `kind.forward` and nothing else, such as a hook."""
    return (
        type(module) is kind
        and "forward" not in vars(module)
        and not is_compiled(module)
        and not any(getattr(module, hooks) for hooks in (*HOOKS, "_backward_pre_hooks"))
        and not nn.modules.module._has_any_global_hook()  # seen in torch 2.10 to 2.15
    )


def register_forward_hook_of_all(hook: Callable[..., None]) -> RemovableHandle:
    """Register a forward hook of all modules, which gets keyword arguments and is always called.

    The handle of torch leaves an entry behind that makes every module call look for hooks. Seen in torch 2.10
    to 2.15.
    """
    hooks = nn.modules.module
    handle = hooks.register_module_forward_hook(hook, with_kwargs=True, always_call=True)
    handle.extra_dict_ref = (*handle.extra_dict_ref, weakref.ref(hooks._global_forward_hooks_with_kwargs))
    return handle


def without_compiled(path: str) -> str:
    """Return a module path without the levels that torch.compile adds."""
    return ".".join(part for part in path.split(".") if part != COMPILED) if COMPILED in path else path


def forward_hooks(module: nn.Module) -> MutableMapping[int, Any]:
    """Return the forward hooks of a module."""
    return module._forward_hooks  # seen in torch 2.10 to 2.15


def forward_pre_hooks(module: nn.Module) -> MutableMapping[int, Any]:
    """Return the forward pre-hooks of a module."""
    return module._forward_pre_hooks  # seen in torch 2.10 to 2.15


def version(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place. Inference tensors do not count their changes: 0."""
    return 0 if tensor.is_inference() else tensor._version  # seen in torch 2.10 to 2.15


def has_own_attention_block(layer: nn.TransformerEncoderLayer) -> bool:
    """Return whether a subclass of the encoder layer overrides how the layer calls its attention."""
    return type(layer)._sa_block is not nn.TransformerEncoderLayer._sa_block  # seen in torch 2.10 to 2.15


def aot_eager(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
    """Compile a graph without code generation; a backend of torch.compile."""
    from torch._dynamo.backends.registry import lookup_backend  # seen in torch 2.10 to 2.15

    return lookup_backend("aot_eager")(graph, inputs)


def run_as_written(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a function that torch.compile must not compile on its own, nor what it calls.

    The compiler takes any function that runs between the parts of a function that it could not compile as a
    whole. It compiled `__torch_function__` of a mode wrongly in torch 2.15. A function that is traced as a
    part of its caller is traced as before. Seen in torch 2.10 to 2.15.
    """
    skip = eval_frame._FrameAction.SKIP
    eval_frame.set_code_exec_strategy(function.__code__, eval_frame._FrameExecStrategy(skip, skip))
    return function


@contextmanager
def without_compilation() -> Iterator[None]:
    """Run compiled functions as they are written inside the block.

    Importing the compiler takes seconds, and where nothing has imported it, nothing is compiled.
    """
    if not {"torch._dynamo", "torch.nn.attention.flex_attention"} & sys.modules.keys():
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def index_by_tensors() -> TorchFunctionMode:
    """Return a mode in which `x[i]` is a gather for a tensor i without axes; torch 2.10 needs it in vmap."""
    from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

    return TransformGetItemToIndex()  # seen in torch 2.10 to 2.15


def is_default_of_flex_attention(function: Any) -> bool:
    """Return whether a function is what `flex_attention` takes if none is given, which changes nothing."""
    from torch.nn.attention import flex_attention

    return function in (flex_attention._identity, flex_attention.noop_mask)  # seen in torch 2.10 to 2.15


def has_torch_fast_path(module: nn.Module) -> bool:
    """Return whether torch runs a module as one fused operation, unless a function mode is active."""
    if isinstance(module, nn.TransformerEncoder):
        return all(has_torch_fast_path(layer) for layer in module.layers)
    return type(module).forward in (nn.TransformerEncoderLayer.forward, nn.MultiheadAttention.forward)
