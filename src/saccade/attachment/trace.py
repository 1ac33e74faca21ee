"""The trace of a forward pass: the operation that computed each tensor, and the modules that returned it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from saccade._torch import WeakTensorKeyDictionary, tensors_in, version, without_compilation
from saccade.attachment.example import call_arguments, describe_inputs, images_of, tensors_within
from saccade.attachment.hooks import Attached
from saccade.errors import BadOption
from saccade.model_state import Handle, preserve_state, temporary_hooks


@dataclass(eq=False)
class Node:
    """A tensor of the forward pass, in one state between two changes in place.

    `depth` is the number of operations on the longest path from the input. `axis` is the axis of channels.
    `key` is the index of an operation `x[key]` with numbers and slices.
    """

    operation: str
    parents: tuple[Node, ...]
    shape: tuple[int, ...]
    axis: int
    index: int
    dtype: torch.dtype
    device: torch.device
    depth: int
    key: Any = None

    @property
    def spatial(self) -> tuple[int, ...]:
        """Extents of the axes other than batch and channels."""
        return tuple(n for axis, n in enumerate(self.shape) if axis not in (0, self.axis))

    @property
    def positions(self) -> int:
        return prod(self.spatial)

    @property
    def parent(self) -> Node | None:
        """The parent with the longest path from the input."""
        return max(self.parents, key=lambda parent: parent.depth, default=None)

    def ancestors(self) -> set[Node]:
        """Return this tensor and all that it was computed from."""
        known, open_nodes = {self}, [self]
        while open_nodes:
            new = [parent for parent in open_nodes.pop().parents if parent not in known]
            known.update(new)
            open_nodes.extend(new)
        return known


@dataclass(eq=False)
class Call:
    """A call of a module: `input_node` is its first input, `output_node` its output."""

    path: str
    module: nn.Module
    start: int
    input_node: Node | None
    end: int = -1
    output_node: Node | None = None

    @property
    def depth(self) -> int:
        """The number of modules around this one, without the model."""
        return self.path.count(".")


class Trace(TorchFunctionMode):
    """A forward pass: nodes in the order of computation, calls in the order in which they end.

    It observes every call of torch from Python; calls of modules stand for operations below Python.
    """

    def __init__(self, images: list[Tensor], batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.nodes: list[Node] = []
        self.outputs: list[Node] = []
        self.calls: list[Call] = []
        self.paths: dict[nn.Module, list[str]] = {}  # several if a module is registered at several paths
        self._counts: Counter[nn.Module] = Counter()
        self._versions: Any = WeakTensorKeyDictionary()  # weak: the pass needs no more memory than usual
        self._running: list[Call] = []
        self._clock = itertools.count()
        self.images = [self._add(image, "example", ()) for image in images]

    def is_unique(self, call: Call) -> bool:
        """Return whether the module runs once in a pass."""
        return self._counts[call.module] == 1

    def node(self, tensor: object) -> Node | None:
        """Return the node of a tensor in its present state, if it depends on the example inputs."""
        if not isinstance(tensor, Tensor):
            return None
        versions: dict[int, Node] = self._versions.get(tensor, {})
        return versions.get(version(tensor)) or (versions[max(versions)] if versions else None)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_in((args, kwargs))
        before = [(t, version(t), node) for t in tensors if (node := self.node(t)) is not None]
        result = function(*args, **kwargs)
        if before:
            parents = tuple(node for _, _, node in before)
            changed = [t for t, old, _ in before if version(t) != old]
            for tensor in (*changed, *tensors_in(result)):
                if self._versions.get(tensor, {}).get(version(tensor)) is None:
                    axis = _axis(function, args, kwargs, before, tensor)
                    node = self._add(tensor, _operation(function, tensors, before), parents, axis)
                    node.key = _key(function, args)
        return result

    def _add(self, tensor: Tensor, operation: str, parents: tuple[Node, ...], axis: int = 1) -> Node:
        shape, index = tuple(tensor.shape), len(self.nodes)
        depth = 1 + max((parent.depth for parent in parents), default=-1)
        node = Node(operation, parents, shape, axis, index, tensor.dtype, tensor.device, depth)
        self.nodes.append(node)
        self._versions.setdefault(tensor, {})[version(tensor)] = node
        return node

    def register(self, model: nn.Module) -> Iterator[Handle]:
        """Register the hooks that trace the modules outside attached attention."""
        for path, module in model.named_modules(remove_duplicate=False):
            self.paths.setdefault(module, []).append(path)
        skipped = {part for host in self.paths if isinstance(host, Attached) for part in host.modules()}
        for module in self.paths:
            if module not in skipped and not isinstance(module, torch.jit.ScriptModule):
                yield module.register_forward_pre_hook(self._enter)
                yield module.register_forward_hook(self._leave)

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        first = self.node(inputs[0]) if inputs else None
        self._running.append(Call(self.paths[module][0], module, next(self._clock), first))

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        while (call := self._running.pop()).module is not module:
            pass  # a call that ended in an exception that the network caught
        call.end = next(self._clock)
        if isinstance(output, Tensor):
            parents = tuple(node for t in tensors_in(inputs) if (node := self.node(t)) is not None)
            call.output_node = self.node(output)
            if call.output_node is None and parents:  # computed below Python
                axis = next((n.axis for n in parents if len(n.shape) == output.ndim), 1)
                call.output_node = self._add(output, "module", parents, axis)
        self.calls.append(call)
        self._counts[module] += 1


def trace_forward(model: nn.Module, example_inputs: object) -> Trace:
    """Run a model on example inputs and trace the pass. The state of the model is restored.

    Raises:
        BadOption: If the example inputs hold no image, or if the forward pass fails.
    """
    args, kwargs = call_arguments(example_inputs)
    images, batch = images_of(example_inputs)
    trace = Trace(images, batch)
    device = images[0].device.type
    can_autocast = torch.amp.is_autocast_available(device)
    full_precision = torch.autocast(device, enabled=False) if can_autocast else nullcontext()
    with preserve_state(model, (args, kwargs)), full_precision, without_compilation():
        try:
            with temporary_hooks(trace.register(model)), trace:
                output = model(*args, **kwargs)
        except Exception as error:
            name, cause = type(model).__name__, f"{type(error).__name__}: {error}"
            described = describe_inputs(example_inputs)
            message = f"the forward pass of {name} fails on example_inputs {described}: {cause}"
            raise BadOption(message, option="example_inputs", value=described) from error
    nodes = [node for t in tensors_within(output) if (node := trace.node(t))]
    trace.outputs = [*dict.fromkeys(nodes)]
    return trace


def _name(function: Any) -> str:
    """Return the name of a function of torch, or of an attribute such as `x.mT`."""
    name: str = getattr(function, "__name__", "")
    return getattr(function.__self__, "__name__", name) if name == "__get__" else name


def _operation(function: Any, tensors: list[Tensor], before: list[tuple[Tensor, int, Node]]) -> str:
    """Return the name of an operation: "cat" only if what it joins ends with a tensor of the trace."""
    name = _name(function)
    is_cat = name in ("cat", "concat", "concatenate")
    return name if not is_cat else "cat" if tensors[-1] is before[-1][0] else "cat with more"


def _key(function: Any, args: Any) -> Any:
    """Return the index of `x[key]` if it holds numbers and slices alone, else None."""
    if _name(function) != "__getitem__":
        return None
    parts = args[1] if isinstance(args[1], tuple) else (args[1],)
    are_plain = all(part is ... or isinstance(part, (int, slice)) for part in parts)
    return args[1] if are_plain else None


_FIRST = ("conv", "batch_norm", "group_norm", "instance_norm", "pool", "interpolate")
_LAST = ("linear", "layer_norm", "rms_norm", "attention", "matmul")
_MOVES = ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "T", "mT")


def _axis(
    function: Any, args: Any, kwargs: Any, before: list[tuple[Tensor, int, Node]], result: Tensor
) -> int:
    """Return the axis of a result that holds the channels; 1 if unknown."""
    same_rank = [entry for entry in before if entry[0].ndim == result.ndim]
    name, (tensor, _, node) = _name(function), max(same_rank or before, key=lambda entry: entry[2].depth)
    last = result.ndim - 1
    if any(part in name for part in _FIRST):
        return 1
    if any(part in name for part in _LAST):
        return last
    if name in _MOVES and args and args[0] is tensor:
        extents = torch.empty([*range(tensor.ndim)], device="meta")  # the extent identifies the axis
        return tuple(function(extents, *args[1:], **kwargs).shape).index(node.axis)
    leading = slice(node.axis + 1)
    if len(node.shape) == result.ndim or node.shape[leading] == tuple(result.shape[leading]):
        return node.axis
    if node.axis == len(node.shape) - 1 and result.ndim and result.shape[-1] == node.shape[-1]:
        return last
    return 1
