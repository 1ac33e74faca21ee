"""Detection of the places for attention in a model, from the trace of a forward pass."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from torch import Tensor, nn

from saccade.attachment.hooks import Attached, Place, runs_children_in_order
from saccade.attachment.site import Kind, Site
from saccade.attachment.token_grid import token_grid
from saccade.attachment.trace import Call, Node, Trace
from saccade.errors import BadOption

_ADDITIONS = ("add", "add_", "__iadd__")
_WEIGHTED = ("conv", "linear")
_AFTER_SCORES = ("interpolate", "sigmoid", "softmax", "log_softmax", "permute", "dropout")
_FOLDS = ("reparameterize", "switch_to_deploy", "fuse_convs", "fuse")  # of timm, RepVGG and ultralytics
_POOLING = ("mean", "sum", "amax", "max", "logsumexp")

#: Layers that fusions and quantization replace, with all that is attached to them.
REPLACED = (nn.modules.batchnorm._BatchNorm, nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True, eq=False)
class Candidate:
    """The input or output of a module, to which attention can be attached."""

    host: nn.Module
    place: Place
    node: Node
    site: Site


class SiteFinder:
    """Finds the places for attention in a traced model."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._hosts: dict[Node, list[Call]] = defaultdict(list)
        for call in trace.calls:
            if call.output_node is not None and self.rejection(call) is None:
                self._hosts[call.output_node].append(call)

    def rejection(self, call: Call) -> str | None:
        """Return why nothing can be attached to the output of a call; None if something can be."""
        name, node = type(call.module).__name__, call.output_node
        if not call.path:
            return "this is the whole model"
        if not self.trace.is_unique(call):
            return f"the {name} is called more than once in a forward pass"
        if node is None:
            return f"the {name} returns no tensor that depends on example_inputs"
        is_container = isinstance(call.module, (nn.Sequential, nn.ModuleDict))
        if is_container and not runs_children_in_order(call.module):
            return f"the forward of the {name} runs over its children and would call attention as one of them"
        if type(call.module).__getstate__ is not nn.Module.__getstate__:  # einops
            return f"copies of a {name} would not keep attention"
        is_batch = 3 <= len(node.shape) <= 5 and node.shape[0] == self.trace.batch
        if not is_batch or not node.dtype.is_floating_point:
            return f"the output of the {name}, {node.shape}, is no batch of sequences, images or clips"
        if node.axis not in (1, len(node.shape) - 1):
            return f"the channels of the output of the {name}, {node.shape}, are on axis {node.axis}"
        return None

    def candidate(self, node: Node, kind: Kind | None = None) -> Candidate | None:
        """Return where to attach to a tensor, or None.

        If several modules return the tensor, it is the outermost and, on one level, the first. A Sequential,
        a module that loops over its children, or one that returns its input (a drop path) is used only if
        there is no other. The first two are also used around a layer that something else may replace.
        """
        calls = [call for call in self._hosts[node] if self._folding(call) is None]

        def rank(call: Call) -> tuple[bool, int, int]:
            return self._is_container(call) or call.input_node is node, call.depth, call.end

        call = min(calls, key=rank, default=None)
        if call and (isinstance(call.module, REPLACED) or _folds(call.module)):
            outer = [o for o in calls if o.depth < call.depth and _can_hold(o.module)]
            call = min(outer, key=lambda call: call.depth, default=call)
        return _candidate(call, node, kind) if call else None

    def candidate_at(self, path: str) -> Candidate:
        """Return where to attach to the output of the module at a path: there, or at the end of a Sequential.

        Raises:
            BadOption: If nothing can be attached to it.
        """
        call = next((call for call in self.trace.calls if path in self.trace.paths[call.module]), None)
        reason = "the module is not called in evaluation mode" if call is None else self.rejection(call)
        if call is None or call.output_node is None or reason is not None:
            message = f"cannot attach to {path!r}: {reason}; saccade.sites lists the possible places"
            raise BadOption(message, owner="attach", option="where", value=path)
        inner = self.candidate(call.output_node) if self._is_container(call) else None
        return inner or _candidate(call, call.output_node)

    def candidates(self) -> list[Candidate]:
        """Return the places of all kinds in the order of the forward pass."""
        places = [self._input(), self._stem(), *self._residuals(), *self._stages(), *self._heads]
        unique = {(place.host, place.site.kind): place for place in places if place}
        return sorted(unique.values(), key=lambda place: place.node.index)

    def _input(self) -> Candidate | None:
        """The input of the first module that takes the image; not of the model, whose hooks DDP skips."""
        calls = (call for call in self.trace.calls if self._is_image(call.input_node) and call.path)
        hosts = (call for call in calls if self.trace.is_unique(call) and not self._is_container(call))
        first = min(hosts, key=lambda call: call.start, default=None)
        return _candidate(first, first.input_node, "input", "input") if first and first.input_node else None

    def _is_image(self, node: Node | None) -> bool:
        """Return whether a tensor is the images, or the batch that a model makes of a list of images."""
        images = self.trace.images
        if node is None or len(node.shape) < 3:  # waves have no channels
            return False
        if len(images) == 1 and len(images[0].shape) != 3:
            return node in images
        is_batch = len(node.shape) == 4 and node.shape[:2] == (self.trace.batch, images[0].shape[0])
        return node in images if node.shape[0] != self.trace.batch else is_batch or node is images[0]

    def _stem(self) -> Candidate | None:
        """The input of the first block."""
        first = min(self._blocks, key=lambda call: call.start, default=None)
        return self._nearest(first.input_node if first else None, "stem")

    def _residuals(self) -> Iterator[Candidate]:
        """The end of each branch: the side of an addition with the longer path from the input."""
        for node in self.trace.nodes:
            side, shapes = node.parent, [parent.shape for parent in node.parents]
            is_sum = node.operation in _ADDITIONS and len(shapes) == 2 and shapes[0] == shapes[1]
            if is_sum and side:
                (other,) = [parent for parent in node.parents if parent is not side] or [side]
                place = self._end_of_branch(side, other)
                if place and place.node.index <= self._last:
                    yield place

    def _end_of_branch(self, side: Node, other: Node) -> Candidate | None:
        """Return the last place of a branch; the end itself is no module's output in `x + gamma * f(x)`.

        The branch of a class token alone, as in the last blocks of CaiT, is none: there is nothing to select.
        A branch within a module that merges its branches into one convolution ends with this module.
        """
        if len(side.shape) == 3 and side.axis == 2 and side.positions == 1:
            return None
        shortcut, node = other.ancestors(), side
        while node.shape == side.shape and node not in shortcut:
            if place := self.candidate(node, "residual"):
                return place
            merged = (m for c in self._hosts[node] if (m := self._folding(c)) and m.output_node)
            if (module := next(merged, None)) and module.output_node and self.rejection(module) is None:
                return self.candidate(module.output_node, "residual")
            if node.parent is None:
                break
            node = node.parent
        return None

    def _folding(self, call: Call) -> Call | None:
        """Return the outermost module around a call that can replace its layers by one, or None."""
        around = (c for c in self._foldings if _within(call, c))
        return max(around, key=lambda c: c.end - c.start, default=None)

    @cached_property
    def _foldings(self) -> list[Call]:
        return [call for call in self.trace.calls if call.path and _folds(call.module)]

    def _stages(self) -> Iterator[Candidate]:
        """The last tensor of each run of equal extents on the trunk, from the first block to the head.

        Between blocks it is the last output of a block, not the norm before the next strided convolution.
        """
        start = min((call.end for call in self._blocks), default=0)
        outside = [call for call in self.trace.calls if not any(_within(call, b) for b in self._blocks)]
        nodes = {call.output_node for call in outside if call.output_node and call.end >= start}
        trunk = {n: place for n in nodes if n.index <= self._last and (place := self.candidate(n, "stage"))}
        ends = {call.output_node.index for call in self._blocks if call.output_node is not None}
        last_end = max(ends, default=0)
        in_order = sorted(trunk, key=lambda node: node.index)
        for _, run in groupby(in_order, key=lambda node: node.spatial):
            yield trunk[max(run, key=lambda node: (node.index in ends or node.index > last_end, node.index))]

    @cached_property
    def _last(self) -> int:
        """The index of the last tensor that can be a place."""
        return max((head.node.index for head in self._heads), default=len(self.trace.nodes))

    @cached_property
    def _heads(self) -> list[Candidate]:
        """The last map before each output of the model, each once."""
        heads = [head for node in self.trace.outputs if (head := self._head(node))]
        return [*{head.host: head for head in heads}.values()]

    def _head(self, output: Node) -> Candidate | None:
        """The last map before the positions are pooled or, if the output is a map, before the scores."""
        if len(output.shape) >= 3 and output.positions > 1:
            return self._nearest(_before_scores(output), "head")
        node = output
        while (parent := node.parent) is not None:
            if len(parent.shape) >= 3 and _collapses(node, parent):
                while _is_pool(parent) and parent.parent is not None:  # VGG pools, then flattens
                    parent = parent.parent
                return self._nearest(parent, "head")
            node = parent
        return None

    @cached_property
    def _blocks(self) -> list[Call]:
        """The outermost calls of repeated classes of modules, and of the modules at the same level.

        A block holds at least two weighted layers; a repeated module with fewer is a layer. A module that
        runs inside a repeated one, such as a squeeze-and-excitation, is part of it. `blocks.0.0` and
        `blocks.1.0` are at the same level.
        """
        calls = [call for call in self.trace.calls if call.path and _weighted_layers(call.module) > 1]
        calls = [call for call in calls if not runs_children_in_order(call.module)]
        counts = Counter(type(module) for module in {call.module for call in calls})
        repeated = [call for call in calls if counts[type(call.module)] > 1]
        nested = [(type(a.module), type(b.module)) for a in repeated for b in repeated if _within(a, b)]
        parts = {inner for inner, outer in nested if inner is not outer}
        levels = {_level(call.path) for call in repeated if type(call.module) not in parts}
        blocks = [call for call in calls if _level(call.path) in levels]
        return [call for call in blocks if not any(_within(call, other) for other in blocks)]

    def _is_container(self, call: Call) -> bool:
        """Return whether a module only calls its children in order, perhaps in a loop over them."""
        if isinstance(call.module, (nn.Sequential, nn.ModuleDict, nn.ModuleList, nn.Identity)):
            return True
        children = [child for child in call.module.children() if not isinstance(child, Attached)]
        inner = [other for other in self.trace.calls if other.module in children and _within(other, call)]
        inputs = [*(other.input_node for other in inner), call.output_node]
        outputs = [call.input_node, *(other.output_node for other in inner)]
        in_order = [other.module for other in inner] == children
        return bool(children) and in_order and all(a is b for a, b in zip(inputs, outputs, strict=True))

    def _nearest(self, node: Node | None, kind: Kind) -> Candidate | None:
        """Return the nearest place at or before a tensor."""
        while node is not None and node not in self.trace.images:
            if candidate := self.candidate(node, kind):
                return candidate
            node = node.parent
        return None


def _candidate(call: Call, node: Node, kind: Kind | None = None, place: Place = "output") -> Candidate:
    shape, channels_last = (node.shape[node.axis], *node.spatial), node.axis != 1
    site = Site(call.path, kind, shape, channels_last, token_grid(node) if len(shape) == 2 else None)
    return Candidate(call.module, place, node, site)


def _can_hold(container: nn.Module) -> bool:
    """Return whether a container calls attention once: a Sequential, or one that calls children by name."""
    names = getattr(getattr(type(container).forward, "__code__", None), "co_names", ())
    return runs_children_in_order(container) or any(name in names for name, _ in container.named_children())


def _folds(module: nn.Module) -> bool:
    """Return whether a module can merge its layers, in place or into a module that replaces it."""
    return any(callable(getattr(module, name, None)) for name in _FOLDS)


def _within(inner: Call, outer: Call) -> bool:
    return outer.start < inner.start and inner.end < outer.end


def _level(path: str) -> str:
    """Return the path of the parent without its numbers: `blocks.1.0` -> `blocks.#`."""
    return ".".join("#" if part.isdigit() else part for part in path.split(".")[:-1])


def _before_scores(output: Node) -> Node:
    """Return the input of the layer that computed a map of scores; other maps are returned unchanged."""
    node = output
    while node.parent is not None:
        if _is_weighted(node):
            return node.parent
        sums_scores = node.operation in _ADDITIONS and all(map(_is_weighted, node.parents))
        if not (sums_scores or node.operation in _AFTER_SCORES):
            break
        node = node.parent
    return output


def _is_weighted(node: Node) -> bool:
    return any(part in node.operation for part in _WEIGHTED)


def _is_pool(node: Node) -> bool:
    return node.operation in _POOLING or "pool" in node.operation


def _collapses(node: Node, parent: Node) -> bool:
    """Return whether the positions of the parent are pooled or flattened in a tensor."""
    return _is_pool(node) or (parent.positions > 1 and (len(node.shape) < 3 or node.positions == 1))


def _weighted_layers(module: nn.Module) -> int:
    return sum(isinstance(w := getattr(m, "weight", None), Tensor) and w.ndim > 1 for m in module.modules())
