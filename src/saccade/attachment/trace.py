"""The trace of one forward pass: which operation made each tensor, and which modules returned it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from saccade.attachment.attached import Attached
from saccade.errors import BadOption
from saccade.model_state import preserve_state

#: How to call a model: its positional and its named arguments.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(eq=False)
class Node:
    """A tensor of the forward pass, as it was between two changes in place.

    `depth` is the longest way from the input, in operations; `axis` the one of the channels.
    """

    operation: str
    parents: tuple[Node, ...]
    shape: tuple[int, ...]
    axis: int
    index: int
    dtype: torch.dtype
    device: torch.device
    depth: int = field(init=False)

    def __post_init__(self) -> None:
        self.depth = 1 + max((parent.depth for parent in self.parents), default=-1)

    @property
    def spatial(self) -> tuple[int, ...]:
        """The extents of the axes that are neither batch nor channels."""
        return tuple(n for axis, n in enumerate(self.shape) if axis not in (0, self.axis))

    @property
    def positions(self) -> int:
        return prod(self.spatial)

    @property
    def parent(self) -> Node | None:
        """The parent with the longest way from the input."""
        return max(self.parents, key=lambda parent: parent.depth, default=None)


@dataclass(eq=False)
class Call:
    """A call of a module. `taken` is the tensor that it was given first, `returned` the one it returned."""

    path: str
    module: nn.Module
    start: int
    taken: Node | None
    end: int = -1
    returned: Node | None = None


@dataclass(eq=False)
class Trace:
    """A forward pass: nodes in the order of their making, calls in the order of their ends."""

    image: Node
    output: Node | None
    nodes: list[Node]
    calls: list[Call]
    paths: Mapping[nn.Module, list[str]]  # more than one if a module is registered in several places

    def is_singular(self, call: Call) -> bool:
        """Whether the module stands in one place and runs once in a pass."""
        return len(self.paths[call.module]) == 1 and self._counts[call.module] == 1

    def __post_init__(self) -> None:
        self._counts = Counter(call.module for call in self.calls)


def arguments(example_inputs: object) -> Arguments:
    """Return how a model is called with an example: a tensor, a tuple of arguments, a dict of named ones."""
    if isinstance(example_inputs, dict):
        return (), example_inputs
    return (tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)), {}


def trace(model: nn.Module, example_inputs: object) -> Trace:
    """Run a model on an example and record the pass. The model is given back as it was.

    Raises `BadOption` if there is no image in the example, or if the model's forward fails.
    """
    args, kwargs = arguments(example_inputs)
    tensors = (t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
    image = next((t for t in tensors if t.is_floating_point() and 3 <= t.ndim <= 5), None)
    if image is None:
        raise BadOption(
            "the example holds no batch of images, (B, C, H, W), of sequences, (B, C, L), or of clips, "
            f"(B, C, T, H, W): got {_described(example_inputs)}"
        )
    tracer = _Tracer(image)
    device = image.device.type
    can_autocast = torch.amp.is_autocast_available(device)
    in_full = torch.autocast(device, enabled=False) if can_autocast else nullcontext()
    with preserve_state(model, (args, kwargs)), in_full:
        try:
            with tracer.hooked(model), tracer:
                output = model(*args, **kwargs)
        except Exception as error:
            raise BadOption(
                f"the forward of {type(model).__name__} fails on the example {_described(example_inputs)}: "
                f"{type(error).__name__}: {error}"
            ) from error
    returned = (tracer.node(t) for t in tree_leaves(output) if isinstance(t, Tensor))
    return Trace(
        tracer.image, next((n for n in returned if n), None), tracer.nodes, tracer.calls, tracer.paths
    )


class _Tracer(TorchFunctionMode):
    """Sees every call of torch, as Python makes it; what it cannot see, a module's call stands for."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self.calls: list[Call] = []
        self.paths: dict[nn.Module, list[str]] = {}
        self._versions: Any = WeakTensorKeyDictionary()  # so that the pass needs no more memory than usual
        self._running: list[Call] = []
        self._clock = 0
        self.image = self._add(image, "example", ())

    def node(self, tensor: object) -> Node | None:
        """The node of a tensor as it is now, if it depends on the example."""
        if not isinstance(tensor, Tensor):
            return None
        versions: dict[int, Node] = self._versions.get(tensor, {})
        return versions.get(_version(tensor)) or (versions[max(versions)] if versions else None)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        before = [(t, _version(t), node) for t in given if (node := self.node(t)) is not None]
        result = function(*args, **kwargs)
        if before:
            parents = tuple(node for _, _, node in before)
            changed = [t for t, version, _ in before if _version(t) != version]
            for tensor in [*changed, *(t for t in tree_leaves(result) if isinstance(t, Tensor))]:
                if self._versions.get(tensor, {}).get(_version(tensor)) is None:
                    self._add(tensor, _name(function), parents, _axis(function, args, kwargs, before, tensor))
        return result

    def _add(self, tensor: Tensor, operation: str, parents: tuple[Node, ...], axis: int = 1) -> Node:
        node = Node(
            operation, parents, tuple(tensor.shape), axis, len(self.nodes), tensor.dtype, tensor.device
        )
        self.nodes.append(node)
        self._versions.setdefault(tensor, {})[_version(tensor)] = node
        return node

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        for path, module in model.named_modules(remove_duplicate=False):
            self.paths.setdefault(module, []).append(path)
        attached = (module for module in self.paths if isinstance(module, Attached))
        passed_over = {part for module in attached for part in module.modules()}
        with ExitStack() as stack:
            for module in self.paths:
                if module not in passed_over and not isinstance(module, torch.jit.ScriptModule):
                    stack.callback(module.register_forward_pre_hook(self._enter).remove)
                    stack.callback(module.register_forward_hook(self._leave).remove)
            yield

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._clock += 1
        taken = self.node(inputs[0]) if inputs else None
        self._running.append(Call(self.paths[module][0], module, self._clock, taken))

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._clock += 1
        while (call := self._running.pop()).module is not module:
            pass  # a call that ended by an exception which the network caught
        call.end = self._clock
        if isinstance(output, Tensor):
            parents = tuple(node for t in tree_leaves(inputs) if (node := self.node(t)) is not None)
            call.returned = self.node(output)
            if call.returned is None and parents:  # made by what calls torch from below Python
                axis = next((n.axis for n in parents if len(n.shape) == output.ndim), 1)
                call.returned = self._add(output, "module", parents, axis)
        self.calls.append(call)


def _described(example_inputs: object) -> str:
    if isinstance(example_inputs, Tensor):
        return str(tuple(example_inputs.shape))
    if isinstance(example_inputs, (tuple, list)):
        return f"({', '.join(map(_described, example_inputs))})"
    if isinstance(example_inputs, dict):
        return f"{{{', '.join(f'{name}: {_described(value)}' for name, value in example_inputs.items())}}}"
    return repr(example_inputs)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _name(function: Any) -> str:
    """The name of a function of torch; of an attribute, such as `x.mT`, the attribute's."""
    name: str = getattr(function, "__name__", "")
    return getattr(function.__self__, "__name__", name) if name == "__get__" else name


_FIRST = ("conv", "batch_norm", "group_norm", "instance_norm", "pool", "interpolate")
_LAST = ("linear", "layer_norm", "rms_norm", "attention", "matmul")
_MOVES = ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "T", "mT")


def _axis(
    function: Any, args: Any, kwargs: Any, before: list[tuple[Tensor, int, Node]], result: Tensor
) -> int:
    """Tell which axis of a result holds the channels; 1 where nothing tells."""
    alike = [entry for entry in before if entry[0].ndim == result.ndim]  # the deepest of them knows most
    name, (tensor, _, node) = _name(function), max(alike or before, key=lambda entry: entry[2].depth)
    last = result.ndim - 1
    if any(part in name for part in _FIRST):
        return 1
    if any(part in name for part in _LAST):
        return last
    if name in _MOVES and args and args[0] is tensor:
        extents = torch.empty([*range(tensor.ndim)], device="meta")  # an axis is told by its extent
        return tuple(function(extents, *args[1:], **kwargs).shape).index(node.axis)
    if len(node.shape) == result.ndim:
        return node.axis
    if node.shape[: node.axis + 1] == tuple(result.shape[: node.axis + 1]):
        return node.axis
    if node.axis == len(node.shape) - 1 and result.ndim and result.shape[-1] == node.shape[-1]:
        return last
    return 1
