"""Whether the tokens of a grid influence the output of a model.

They do not behind the last attention, if the head reads the class token alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import torch

from saccade.attachment.site_builder import SiteBuilder
from saccade.attachment.site_detection import Candidate
from saccade.attachment.trace import Node, Trace

#: Operations on tokens (B, N, C) in which each token depends on the same token alone.
_TOKENWISE = {
    *("add", "add_", "__iadd__", "__radd__", "sub", "rsub", "mul", "mul_", "__imul__", "__rmul__", "div"),
    *("linear", "layer_norm", "rms_norm", "dropout", "feature_dropout", "lerp"),
    *("gelu", "relu", "relu_", "silu", "mish", "elu", "leaky_relu", "hardswish", "sigmoid", "tanh"),
    *("to", "float", "half", "type", "type_as", "contiguous", "clone"),
}


def without_influence(trace: Trace, candidates: Iterable[Candidate], builder: SiteBuilder) -> set[Candidate]:
    """Return the places where a mechanism attends to tokens that no output depends on.

    These are tokens of a grid, which class tokens pass by. An operation that is not known to treat each token
    alone is taken to read all of them.

    Args:
        trace: The trace of the model.
        candidates: The places.
        builder: Builds the mechanism.
    """
    on_grids = (c for c in candidates if builder.ignores_first_tokens(c.site))
    return {candidate for candidate in on_grids if not _reaches_output(trace, candidate)}


def _reaches_output(trace: Trace, candidate: Candidate) -> bool:
    """Return whether an output depends on the tokens of the grid at a place."""
    count = candidate.node.shape[1]
    first = count - prod(candidate.site.grid or ())
    if candidate.node.axis != 2:
        return True
    reached = {candidate.node}  # tokens, of which those of the grid depend on the grid at the place
    for node in trace.nodes[candidate.node.index + 1 :]:
        tokens = reached.intersection(node.parents)
        if not tokens or all(_takes_first(node, parent, first) for parent in tokens):
            continue
        are_tokens = all(len(n.shape) == 3 and n.shape[1] == count for n in (node, *tokens))
        if node.operation not in _TOKENWISE or not are_tokens:
            return True
        reached.add(node)
    return not reached.isdisjoint(trace.outputs)


def _takes_first(node: Node, tokens: Node, first: int) -> bool:
    """Return whether an operation takes some of the first tokens by an index, such as `x[:, 0]`."""
    if node.key is None:
        return False
    positions = torch.arange(tokens.shape[1], device="cpu")[:, None].expand(tokens.shape)
    taken = positions[node.key]
    return taken.numel() > 0 and bool((taken < first).all())
