"""Attention of each position to its neighborhood, in tiles, with the fused attention of torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.maps import neighborhood_bounds

_TILE = 8  # smallest height and width of a tile of queries


def neighborhood_attention(query: Tensor, key: Tensor, value: Tensor, size: int, dilation: int = 1) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v over the neighborhood of each position; see `neighborhood_bounds`.

    Queries are cut into tiles. A tile shares the region of all its neighborhoods, and a mask selects the
    neighborhood of each query, so that time and memory grow with N size^2 for N positions. Positions of
    different remainders of the dilation never meet, and are in different tiles.

    Args:
        query: Queries q, (B, H, W, heads, D).
        key: Keys k, (B, H, W, heads, D).
        value: Values v, (B, H, W, heads, D).
        size: Height and width of a neighborhood, in neighbors.
        dilation: Distance of neighbors.

    Returns:
        Weighted means of the values, (B, H, W, heads, D).

    Example:
        >>> import torch
        >>> zeros, value = torch.zeros(1, 1, 5, 1, 1), torch.arange(5.0).reshape(1, 1, 5, 1, 1)
        >>> neighborhood_attention(zeros, zeros, value, size=3).flatten().tolist()
        [1.0, 1.0, 2.0, 3.0, 3.0]
    """
    batch, height, width, heads, _ = query.shape
    rows, columns = (_Axis(extent, size, dilation) for extent in (height, width))
    q = columns.cut_queries(rows.cut_queries(query, 1), 4)  # (B, tiles, T, d, tiles, T, d, heads, D)
    q = q.permute(3, 1, 6, 4, 0, 7, 2, 5, 8).flatten(6, 7).flatten(4, 5).flatten(0, 3)
    k, v = (_cut_keys(x, rows, columns) for x in (key, value))
    mask = rows.mask(query.device)[:, None, :, None, :, None] & columns.mask(query.device)[:, None, :, None]
    mask = mask.flatten(4, 5).flatten(2, 3).flatten(0, 1).unsqueeze(1)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    y = y.unflatten(2, (rows.tile, columns.tile)).unflatten(1, (batch, heads))
    y = y.unflatten(0, (dilation, rows.tiles, dilation, columns.tiles)).permute(4, 1, 6, 0, 3, 7, 2, 5, 8)
    grid: Tensor = y.flatten(4, 6).flatten(1, 3)
    top, left = rows.before * dilation, columns.before * dilation
    return grid[:, top : top + height, left : left + width]


def _cut_keys(x: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """Cut (B, H, W, heads, D) into the regions of all tiles, (tiles, B * heads, R * R, D)."""
    x = columns.cut_keys(rows.cut_keys(x, 1), 3)  # (B, tiles, d, tiles, d, heads, D, R, R)
    return x.permute(2, 1, 4, 3, 0, 5, 7, 8, 6).flatten(6, 7).flatten(4, 5).flatten(0, 3)


class _Axis:
    """The tiles of one axis. Lengths count positions of one remainder of the dilation."""

    def __init__(self, length: int, size: int, dilation: int) -> None:
        self.length, self.size, self.dilation = length, size, dilation
        # Half of the padding stands before the map: so the last tile is not so short that a neighborhood
        # that moves inward would leave its region. Remainders differ by 1 in length, hence the margin of 2.
        self.tile = max(size + 2, _TILE)
        longest = (length - 1) // dilation + 1
        self.tiles = (longest - 1) // self.tile + 1
        self.before = (self.tiles * self.tile - longest) // 2
        self.region = self.tile + size - 1

    def cut_queries(self, x: Tensor, axis: int) -> Tensor:
        """Replace an axis by three: tiles, positions of a tile, remainders."""
        x = self._pad(x, axis, self.before, self.tiles * self.tile)
        tiles: Tensor = x.unflatten(axis, (self.tiles, self.tile, self.dilation))
        return tiles

    def cut_keys(self, x: Tensor, axis: int) -> Tensor:
        """Replace an axis by tiles and remainders, and append the positions of the region of a tile."""
        padded = self.tiles * self.tile + self.size - 1
        x = self._pad(x, axis, self.before + self.size // 2, padded)
        regions: Tensor = x.unflatten(axis, (padded, self.dilation)).unfold(axis, self.region, self.tile)
        return regions

    def mask(self, device: torch.device) -> Tensor:
        """Return which positions of the region are neighbors of each query, (remainders * tiles, T, R).

        Queries of the padding, whose results are dropped, have all positions: a softmax over none is NaN.
        """
        first, last = neighborhood_bounds(self.length, self.size, self.dilation, device)
        remainder = torch.arange(self.dilation, device=device)[:, None, None]
        start = self.tile * torch.arange(self.tiles, device=device)[:, None] - self.before
        query = (start + torch.arange(self.tile, device=device)) * self.dilation + remainder
        key = start - self.size // 2 + torch.arange(self.region, device=device)
        key = (key * self.dilation + remainder).unsqueeze(2)
        is_padding = (query < 0) | (query >= self.length)
        index = query.clamp(0, self.length - 1)
        is_neighbor = (key >= first[index].unsqueeze(3)) & (key <= last[index].unsqueeze(3))
        return (is_neighbor | is_padding.unsqueeze(3)).flatten(0, 1)

    def _pad(self, x: Tensor, axis: int, before: int, length: int) -> Tensor:
        """Pad an axis with zeros to `length` positions of each remainder."""
        before, length = before * self.dilation, length * self.dilation
        return F.pad(x, (*[0, 0] * (x.ndim - 1 - axis), before, length - before - x.shape[axis]))
