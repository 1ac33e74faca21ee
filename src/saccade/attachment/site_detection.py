"""Where attention can go in a network: the kinds of place, read from the trace of a forward pass."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from torch import Tensor, nn

from saccade.attachment.attached import Attached, Place, runs_children_in_order
from saccade.attachment.site import Kind, Site
from saccade.attachment.trace import Call, Node, Trace
from saccade.errors import BadOption

_ADDITIONS = ("add", "add_", "__iadd__")
_WEIGHTED = ("conv", "linear")
_AFTER_SCORES = ("interpolate", "sigmoid", "softmax", "log_softmax", "permute", "dropout")
_POOLING = ("mean", "sum", "amax", "max", "logsumexp")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A module and one of its ends, where attention can be attached to the tensor of a node."""

    host: nn.Module
    place: Place
    node: Node
    site: Site


class SiteFinder:
    """The places of a network, from a trace of it."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._batch = trace.image.shape[0]
        self._hosts: dict[Node, list[Call]] = defaultdict(list)
        for call in trace.calls:
            if call.returned is not None and self.why_not(call) is None:
                self._hosts[call.returned].append(call)

    def why_not(self, call: Call) -> str | None:
        """Say why nothing can be attached to what a call returned; None if it can be."""
        name, paths, node = type(call.module).__name__, self.trace.paths[call.module], call.returned
        if not call.path:
            return "it is the whole network"
        if len(paths) > 1:
            return f"its {name} stands in {len(paths)} places, {' and '.join(map(repr, paths[:2]))}"
        if not self.trace.is_singular(call):
            return f"its {name} is called more than once in a forward pass"
        if node is None:
            return f"its {name} returns no tensor that depends on the example"
        if isinstance(call.module, (nn.Sequential, nn.ModuleDict)) and not runs_children_in_order(
            call.module
        ):
            return f"the forward of its {name} runs over its children, and attention would be one of them"
        if not 3 <= len(node.shape) <= 5 or node.shape[0] != self._batch or not node.dtype.is_floating_point:
            return f"what its {name} returns, {node.shape}, is no batch of sequences, images or clips"
        if node.axis not in (1, len(node.shape) - 1):
            return f"axis {node.axis} of what its {name} returns, {node.shape}, holds the channels"
        return None

    def spot(self, node: Node, kind: Kind | None = None) -> Candidate | None:
        """Return where to attach to a tensor.

        Of several modules that return it a residual branch's is the first, the norm before the drop path,
        any other the shallowest, `layer4.2` before `layer4.2.act3`; a Sequential, an Identity or
        what calls its children like one is taken only for want of others.
        """
        calls = self._hosts.get(node)
        if not calls:
            return None
        levels = 0 if kind == "residual" else 1
        call = min(calls, key=lambda c: (self._is_frame(c), c.path.count(".") * levels, c.end))
        return Candidate(call.module, "output", node, _site(call.path, kind, node))

    def at(self, path: str) -> Candidate:
        """Return where to attach to what the module at a path returns: there, or at the end of a Sequential.

        Raises `BadOption` if nothing can be attached to it.
        """
        call = next((call for call in self.trace.calls if path in self.trace.paths[call.module]), None)
        reason = "it is not called in evaluation mode" if call is None else self.why_not(call)
        if call is None or call.returned is None or reason is not None:
            raise BadOption(
                f"nothing can be attached to {path!r}: {reason}; saccade.sites lists places that can"
            )
        inner = self.spot(call.returned) if self._is_frame(call) else None
        return inner or Candidate(call.module, "output", call.returned, _site(call.path, None, call.returned))

    def spots(self) -> list[Candidate]:
        """Return the places of all kinds, in the order in which features pass them."""
        found = [self.input, self.stem, *self.residuals, *self.stages, self.head]
        return sorted((spot for spot in found if spot is not None), key=lambda spot: spot.node.index)

    @property
    def input(self) -> Candidate | None:
        """Before the first module that takes the image; not before the network, whose hooks DDP passes by."""
        image = self.trace.image
        for call in sorted(self.trace.calls, key=lambda call: call.start):
            takes_image = call.taken is image and call.path
            if takes_image and self.trace.is_singular(call) and not self._is_frame(call):
                return Candidate(call.module, "input", image, _site(call.path, "input", image))
        return None

    @property
    def stem(self) -> Candidate | None:
        """What the first block takes."""
        first = min(self._blocks, key=lambda call: call.start, default=None)
        return self._nearest(first.taken if first else None, "stem")

    @property
    def residuals(self) -> Iterator[Candidate]:
        """The end of each branch: of the two sides of an addition, the one with more operations behind it."""
        for node in self.trace.nodes:
            sides = node.parents
            if node.operation in _ADDITIONS and len(sides) == 2 and sides[0].shape == sides[1].shape:
                side = max(sides, key=lambda side: side.depth)
                spot = self.spot(side, "residual")
                if spot is not None and (self.head is None or side.index <= self.head.node.index):
                    yield spot

    @property
    def stages(self) -> Iterator[Candidate]:
        """The last tensor of each run of equal extents along the trunk, from the first block to the head.

        Between blocks it is the last one of a block: the norm before the next strided convolution is not it.
        """
        start = min((call.end for call in self._blocks), default=0)
        end = self.head.node.index if self.head else len(self.trace.nodes)
        trunk = {
            call.returned: spot
            for call in self.trace.calls
            if call.returned is not None and call.end >= start and call.returned.index <= end
            if not any(_within(call, block) for block in self._blocks)
            if (spot := self.spot(call.returned, "stage")) is not None
        }
        ends = {call.returned.index for call in self._blocks if call.returned is not None}
        in_order = sorted(trunk, key=lambda node: node.index)
        for _, run in groupby(in_order, key=lambda node: node.spatial):
            last = max(
                run, key=lambda node: (node.index in ends or node.index > max(ends, default=0), node.index)
            )
            yield trunk[last]

    @cached_property
    def head(self) -> Candidate | None:
        """The last map before positions are pooled or, where the answer is a map, before the scores."""
        node = self.trace.output
        if node is not None and len(node.shape) >= 3 and node.positions > 1:
            return self._nearest(_before_scores(node), "head")
        while node is not None and (parent := node.parent) is not None:
            if len(parent.shape) >= 3 and _collapses(node, parent):
                while _is_pool(parent) and parent.parent is not None:  # VGG pools, then flattens
                    parent = parent.parent
                return self._nearest(parent, "head")
            node = parent
        return None

    @cached_property
    def _blocks(self) -> list[Call]:
        """The outermost calls of modules of which the network has several, and of those beside them.

        They hold two weighted layers or more: what repeats with less is a layer. What runs within others,
        such as a squeeze-and-excitation, is their part. Beside them: `blocks.0.0` beside `blocks.1.0`.
        """
        calls = [call for call in self.trace.calls if call.path and _weighted_layers(call.module) > 1]
        calls = [call for call in calls if not runs_children_in_order(call.module)]
        counts = Counter(type(module) for module in {call.module for call in calls})
        repeated = [call for call in calls if counts[type(call.module)] > 1]
        parts = {
            type(a.module)
            for a in repeated
            for b in repeated
            if _within(a, b) and type(a.module) is not type(b.module)
        }
        levels = {_level(call.path) for call in repeated if type(call.module) not in parts}
        blocks = [call for call in calls if _level(call.path) in levels]
        return [call for call in blocks if not any(_within(call, other) for other in blocks)]

    def _is_frame(self, call: Call) -> bool:
        """Whether a module only calls others, one after the other: perhaps in a loop over its children."""
        if isinstance(call.module, (nn.Sequential, nn.ModuleDict, nn.ModuleList, nn.Identity)):
            return True
        children = [child for child in call.module.children() if not isinstance(child, Attached)]
        inner = [other for other in self.trace.calls if other.module in children and _within(other, call)]
        taken = [*(other.taken for other in inner), call.returned]
        given = [call.taken, *(other.returned for other in inner)]
        in_order = [other.module for other in inner] == children
        return bool(children) and in_order and all(a is b for a, b in zip(taken, given, strict=True))

    def _nearest(self, node: Node | None, kind: Kind) -> Candidate | None:
        """Go back from a tensor to the nearest that attention can be attached to."""
        while node is not None and node is not self.trace.image:
            if (spot := self.spot(node, kind)) is not None:
                return spot
            node = node.parent
        return None


def _site(path: str, kind: Kind | None, node: Node) -> Site:
    channels_last = node.axis != 1
    return Site(path, kind, (node.shape[node.axis], *node.spatial), channels_last)


def _within(inner: Call, outer: Call) -> bool:
    return outer.start < inner.start and inner.end < outer.end


def _level(path: str) -> str:
    """The path of the parent, whatever its numbers: `blocks.1.0` -> `blocks.#`."""
    return ".".join("#" if part.isdigit() else part for part in path.split(".")[:-1])


def _before_scores(output: Node) -> Node:
    """Go back from a map of scores, resized or summed, to what its layer took; from other maps nowhere."""
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
    """Whether a tensor is what is left of the positions of its parent."""
    return _is_pool(node) or (parent.positions > 1 and (len(node.shape) < 3 or node.positions == 1))


def _weighted_layers(module: nn.Module) -> int:
    weights = (getattr(part, "weight", None) for part in module.modules())
    return sum(isinstance(weight, Tensor) and weight.ndim > 1 for weight in weights)
