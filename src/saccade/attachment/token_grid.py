"""The grid of tokens: the extents of the map or the sequence that they were computed from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isqrt

from saccade.attachment.hooks import scale_grid
from saccade.attachment.trace import Node


def token_grid(tokens: Node) -> tuple[int, ...] | None:
    """Return the grid of tokens, or None if it is unknown.

    There are as many places as tokens, or a few less: a class token and registers were concatenated before
    them. The map of a convolution goes first, then patches that were unfolded from a map. Without a
    convolution, the patches of a square image form a square. The grid of a sequence is its length.
    """
    ancestors = sorted(tokens.ancestors(), key=lambda node: node.index)
    parts = [part for node in ancestors if node.operation == "cat" for part in _parts(node, tokens.positions)]
    counts = {tokens.positions, *parts}
    candidates = [node for node in ancestors if node.positions in counts]
    convolved = [node for node in candidates if "conv" in node.operation]
    if grid := _largest(convolved, (2, 3)) or _largest(candidates, (2, 3)):
        return grid
    if patches := [node for node in candidates if node.operation == "unfold"]:
        return _grid_of_patches(patches[-1])
    is_sequence, example = len(ancestors[0].shape) <= 3, ancestors[0].spatial
    if is_sequence and (row := _largest(convolved, (1,))):
        return row
    if any("conv" in node.operation for node in ancestors):
        return None
    if is_sequence:
        return (parts[-1] if parts else tokens.positions,)
    return _square_grid(example, counts)


def _parts(joined: Node, count: int) -> Iterator[int]:
    """Yield how many tokens of the trace were joined to `count` tokens, perhaps for each head."""
    for parent in joined.parents:
        differing = [(m, n) for m, n in zip(parent.shape, joined.shape, strict=False) if m != n]
        if len(differing) == 1 and differing[0][1] == count:
            yield differing[0][0]


def _largest(maps: Iterable[Node], axes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the extents of the map with the most positions, of the last one if there are several."""
    fitting = (node for node in maps if len(node.spatial) in axes and min(node.spatial) > 1)
    best = max(fitting, key=lambda node: (node.positions, node.index), default=None)
    return best.spatial if best else None


def _grid_of_patches(patches: Node) -> tuple[int, ...] | None:
    """Return the grid of patches `(B, C, N)` that `F.unfold` cut out of a map of the same proportions."""
    source = patches.parent
    is_map = source is not None and len(source.spatial) == 2 and len(patches.shape) == 3
    return scale_grid(source.spatial, patches.positions) if source and is_map else None


def _square_grid(image: tuple[int, ...], counts: set[int]) -> tuple[int, int] | None:
    """Return the largest square grid of one of these counts of patches of a square image, or None.

    The image was cut into patches by views.
    """
    sides = [isqrt(count) for count in counts if count > 1 and isqrt(count) ** 2 == count]
    return (max(sides),) * 2 if sides and len(image) == 2 and image[0] == image[1] else None
