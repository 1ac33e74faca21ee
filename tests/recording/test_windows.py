"""Windows that a model cuts itself are put back on the whole grid, from the operations that cut them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saccade as sc
from saccade.maps import PairwiseMap, UnplacedWindowMap, WindowMap
from support.errors import raises
from support.external_networks import CORE, NETWORKS, inputs_of, run

HEIGHT, WIDTH, CHANNELS, HEADS = 7, 8, 12, 3
SHIFT = 2
#: Windows of each form, by rows and columns; the map is padded to 8 x 8 where it does not fit.
WINDOWS = {
    "shifted": (4, 4),
    "folded": (4, 2),
    "strided": (7, 2),
    "patches": (7, 4),
    "einsum": (7, 4),
    "axes": (4, 4),
    "bands": (1, 8),
    "unfolded": (7, 4),
}


class Windowed(nn.Module):
    """Attention within windows, cut in one of several ways."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.stem = nn.Conv2d(3, CHANNELS, 4, 4)
        self.norm = nn.LayerNorm(CHANNELS)
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.out = nn.Linear(CHANNELS, CHANNELS)
        n = WINDOWS[form][0] * WINDOWS[form][1]
        self.bias = nn.Parameter(torch.randn(HEADS, n, n))

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.stem(x)
        out: Tensor = maps + getattr(self, f"attend_{self.form}")(maps)
        return out

    def attend_shifted(self, maps: Tensor) -> Tensor:
        """As Swin does: padding, a cyclic shift, windows in the batch and a mask of regions."""
        x = F.pad(self.norm(maps.permute(0, 2, 3, 1)), (0, 0, 0, 0, 0, 1))
        x = torch.roll(x, shifts=(-SHIFT, -SHIFT), dims=(1, 2))
        x = x.view(len(x), 2, 4, 2, 4, CHANNELS).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 16, CHANNELS)
        q, k, v = self.qkv(x).reshape(-1, 16, 3, HEADS, CHANNELS // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        logits = q * 0.5 @ k.transpose(-2, -1) + self.bias
        logits = logits.view(-1, 4, HEADS, 16, 16) + region_mask()[:, None]
        x = self.out((logits.view(-1, HEADS, 16, 16).softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x.view(-1, 2, 2, 4, 4, CHANNELS).permute(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, CHANNELS)
        return torch.roll(x, shifts=(SHIFT, SHIFT), dims=(1, 2))[:, :HEIGHT].permute(0, 3, 1, 2)

    def attend_folded(self, maps: Tensor) -> Tensor:
        """As SAM does: images, windows and heads in one axis, and a bias that depends on the queries."""
        x = F.pad(self.norm(maps.permute(0, 2, 3, 1)), (0, 0, 0, 0, 0, 1))
        x = x.reshape(len(x), 2, 4, 4, 2, CHANNELS).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 2, CHANNELS)
        parts = self.qkv(x).reshape(len(x), 8, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        q, k, v = parts.reshape(3, len(x) * HEADS, 8, -1).unbind(0)
        logits = q * 0.5 @ k.transpose(-2, -1)
        logits = logits.view(-1, 4, 2, 8) + q.sum(-1).view(-1, 4, 2, 1) * torch.arange(8)
        x = (logits.view(-1, 8, 8).softmax(-1) @ v).view(-1, HEADS, 4, 2, CHANNELS // HEADS)
        x = self.out(x.permute(0, 2, 3, 1, 4).reshape(-1, 4, 2, CHANNELS))
        x = x.reshape(-1, 2, 4, 4, 2, CHANNELS).permute(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, CHANNELS)
        out: Tensor = x[:, :HEIGHT].permute(0, 3, 1, 2)
        return out

    def attend_strided(self, maps: Tensor) -> Tensor:
        """As MaxViT's grid attention does: the tokens of a window are far from each other."""
        x = maps.permute(0, 2, 3, 1).reshape(-1, 7, 1, 2, 4, CHANNELS).permute(0, 2, 4, 1, 3, 5)
        q, k, v = self.qkv(x.reshape(-1, 14, CHANNELS)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias, scale=0.5)
        x = self.out(x.transpose(1, 2).flatten(2)).reshape(-1, 1, 4, 7, 2, CHANNELS)
        out: Tensor = x.permute(0, 5, 3, 1, 4, 2).reshape(-1, CHANNELS, 7, 8)
        return out

    def attend_patches(self, maps: Tensor) -> Tensor:
        """As MobileViT does: the pixels of a patch are in the batch, and a token attends to other patches."""
        x = maps.reshape(len(maps) * CHANNELS * 7, 1, 4, 2).transpose(1, 2)
        x = x.reshape(-1, CHANNELS, 28, 2).transpose(1, 3).reshape(-1, 28, CHANNELS)
        for _ in range(2):  # the tokens of the second layer are where those of the first are
            q, k, v = self.qkv(x).reshape(-1, 28, 3, HEADS, 4).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias, scale=0.5)
            x = x + self.out(y.transpose(1, 2).reshape(-1, 28, CHANNELS))
        x = x.reshape(-1, 2, 28, CHANNELS).transpose(1, 3).reshape(-1, 4, 2, 1)
        return x.transpose(1, 2).reshape(-1, CHANNELS, 7, 8)

    def attend_einsum(self, maps: Tensor) -> Tensor:
        """As the MaxViT of torchvision does: an axis of windows, and products by `einsum`."""
        x = maps.reshape(-1, CHANNELS, 1, 7, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 2, 28, CHANNELS)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (y.reshape(-1, 2, 28, HEADS, 4).permute(0, 1, 3, 2, 4) for y in (q, k, v))
        weights = F.softmax(torch.einsum("B G H I D, B G H J D -> B G H I J", q, k * 0.5) + self.bias, dim=-1)
        x = torch.einsum("B G H I J, B G H J D -> B G H I D", weights, v)
        x = self.out(x.permute(0, 1, 3, 2, 4).reshape(-1, 1, 2, 7, 4, CHANNELS))
        out: Tensor = x.permute(0, 5, 1, 3, 2, 4).reshape(-1, CHANNELS, 7, 8)
        return out

    def attend_axes(self, maps: Tensor) -> Tensor:
        """As Twins does: an axis of windows before that of heads."""
        x = (
            F.pad(maps.permute(0, 2, 3, 1), (0, 0, 0, 0, 0, 1))
            .reshape(-1, 2, 4, 2, 4, CHANNELS)
            .transpose(2, 3)
        )
        q, k, v = self.qkv(x).reshape(-1, 4, 16, 3, HEADS, 4).permute(3, 0, 1, 4, 2, 5).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias, scale=0.5)
        x = (
            self.out(x.transpose(2, 3).reshape(-1, 2, 2, 4, 4, CHANNELS))
            .transpose(2, 3)
            .reshape(-1, 8, 8, 12)
        )
        out: Tensor = x[:, :HEIGHT].permute(0, 3, 1, 2)
        return out

    def attend_bands(self, maps: Tensor) -> Tensor:
        """As YOLO12 does: equal parts of the sequence of positions."""
        q, k, v = self.qkv(maps.flatten(2).mT.reshape(-1, 8, CHANNELS)).unflatten(2, (3, HEADS, 4)).unbind(2)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias, scale=0.5)
        x = self.out(x.transpose(1, 2).reshape(-1, HEIGHT * WIDTH, CHANNELS)).mT
        out: Tensor = x.unflatten(2, (HEIGHT, WIDTH))
        return out

    def attend_unfolded(self, maps: Tensor) -> Tensor:
        """As TNT does: the columns of `unfold`."""
        x = F.unfold(maps, (7, 4), stride=(7, 4)).mT.reshape(-1, CHANNELS, 28).mT
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, 4)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias, scale=0.5)
        x = self.out(x.transpose(1, 2).flatten(2)).mT.reshape(-1, 2, CHANNELS * 28)
        return F.fold(x.mT, (HEIGHT, WIDTH), (7, 4), stride=(7, 4))


def region_mask() -> Tensor:
    """The bias of Swin, -100 between positions that a shift brings together, (windows, n, n)."""
    region = torch.tensor([[3 * (y >= 6) + (x >= 6) for x in range(8)] for y in range(8)])
    regions = torch.stack([region[y : y + 4, x : x + 4].flatten() for y in (0, 4) for x in (0, 4)])
    return -100.0 * (regions[:, :, None] != regions[:, None, :])


def windows_of(form: str) -> list[list[tuple[int, int]]]:
    """Return row and column of each token of each window, in the padded map."""
    rows, columns = WINDOWS[form]
    if form == "shifted":
        starts = [(y, x) for y in (0, 4) for x in (0, 4)]
        return [
            [((y + i + SHIFT) % 8, (x + j + SHIFT) % 8) for i in range(4) for j in range(4)]
            for y, x in starts
        ]
    if form == "strided":
        return [[(i, x + 4 * j) for i in range(7) for j in range(2)] for x in range(4)]
    if form == "patches":
        return [[(i, x + 2 * j) for i in range(7) for j in range(4)] for x in range(2)]
    starts = [(y, x) for y in range(0, HEIGHT, rows) for x in range(0, WIDTH, columns)]
    return [[(y + i, x + j) for i in range(rows) for j in range(columns)] for y, x in starts]


def dense_weights(model: Windowed, images: Tensor) -> Tensor:
    """Return the weights between all positions, window by window, (B, heads, H W, H W)."""
    features = model.stem(images).permute(0, 2, 3, 1)
    if model.form in ("shifted", "folded"):
        features = model.norm(features)
    padded = torch.cat([features, torch.zeros_like(features[:, :1])], 1)
    dense = torch.zeros(len(images), HEADS, HEIGHT * WIDTH, HEIGHT * WIDTH, dtype=images.dtype)
    for number, window in enumerate(windows_of(model.form)):
        tokens = torch.stack([padded[:, y, x] for y, x in window], 1)
        parts = model.qkv(tokens).unflatten(2, (3, HEADS, -1))
        q, k = parts[:, :, 0].transpose(1, 2), parts[:, :, 1].transpose(1, 2)
        logits = 0.5 * torch.einsum("bhid,bhjd->bhij", q, k)
        if model.form == "folded":
            logits = logits + q.sum(-1, keepdim=True) * torch.arange(len(window))
        else:
            logits = logits + model.bias
        if model.form == "shifted":
            logits = logits + region_mask()[number]
        weights = logits.softmax(-1)
        inside = [n for n, (y, _) in enumerate(window) if y < HEIGHT]
        places = torch.tensor([window[n][0] * WIDTH + window[n][1] for n in inside])
        dense[:, :, places[:, None], places] = weights[:, :, inside][..., inside]
    return dense


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("form", WINDOWS)
def test_windows_are_on_the_whole_grid(form: str, batch: int) -> None:
    torch.manual_seed(0)
    model = Windowed(form).double().eval()
    images = torch.randn(batch, 3, 4 * HEIGHT, 4 * WIDTH, dtype=torch.float64)
    expected = model(images)
    with torch.no_grad(), sc.record(model) as maps:
        found = model(images)
    assert torch.equal(found, expected)
    attention = maps[""]
    assert isinstance(attention, WindowMap)
    assert attention.query_shape == attention.key_shape == (HEIGHT, WIDTH)
    torch.testing.assert_close(attention.weights(), dense_weights(model, images), atol=1e-12, rtol=1e-9)
    assert attention.heatmap().shape == (batch, HEIGHT, WIDTH)
    if form == "patches":
        second = maps["#2"]
        assert isinstance(second, WindowMap)
        assert torch.equal(second.places, attention.places)


def test_windows_of_volumes_are_on_the_whole_grid() -> None:
    class Volumes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.qkv = nn.Conv3d(1, CHANNELS, 2, 2), nn.Linear(CHANNELS, 3 * CHANNELS)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).permute(0, 2, 3, 4, 1).reshape(-1, 2, 2, 2, 3, 3, 2, CHANNELS)
            x = x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, 12, CHANNELS)
            q, k, v = self.qkv(x).reshape(-1, 12, 3, HEADS, 4).permute(2, 0, 3, 1, 4).unbind(0)
            return F.scaled_dot_product_attention(q, k, v)

    model = Volumes().eval()
    with torch.no_grad(), sc.record(model) as maps:
        model(torch.randn(2, 1, 8, 12, 12))
    attention = maps[""]
    assert isinstance(attention, WindowMap)
    assert attention.key_shape == (4, 6, 6)
    starts = [(t, y, x) for t in (0, 2) for y in (0, 3) for x in (0, 2, 4)]
    places = [
        [36 * (t + i) + 6 * (y + j) + x + k for i in range(2) for j in range(3) for k in range(2)]
        for t, y, x in starts
    ]
    assert attention.places.tolist() == places
    assert attention.attention_received().shape == (2, 4, 6, 6)


def test_windows_of_pixels_that_a_layer_reduces() -> None:
    """As TNT does: windows of the image, and a convolution with steps in each of them."""

    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.qkv = nn.Conv2d(3, CHANNELS, 3, 2, 1), nn.Linear(CHANNELS, 3 * CHANNELS)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(F.unfold(x, (4, 6), stride=(4, 6)).mT.reshape(-1, 3, 4, 6)).flatten(2).mT
            q, k, v = self.qkv(x).unflatten(2, (3, HEADS, 4)).permute(2, 0, 3, 1, 4)
            return F.scaled_dot_product_attention(q, k, v)

    model = Pixels().eval()
    with torch.no_grad(), sc.record(model) as maps:
        model(torch.randn(2, 3, 8, 12))
    attention = maps[""]
    assert isinstance(attention, WindowMap)
    assert attention.query_shape == (4, 6)
    starts = [(y, x) for y in (0, 2) for x in (0, 3)]
    expected = [[6 * (y + i) + x + j for i in range(2) for j in range(3)] for y, x in starts]
    assert attention.places.tolist() == expected


def test_windows_that_were_cut_unseen_stay_windows() -> None:
    """The rows of a map of windows are no image, even if it has the shape of one."""

    class Unseen(Windowed):
        def attend_axes(self, maps: Tensor) -> Tensor:
            places = torch.arange(64).reshape(2, 4, 4, 2).transpose(1, 2).reshape(8, 8)
            tokens = F.pad(maps, (0, 0, 0, 1)).flatten(2).mT
            x = tokens.index_select(1, places.flatten())  # nothing follows this
            q, k, v = self.qkv(x.reshape(-1, 8, CHANNELS)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            F.scaled_dot_product_attention(q, k, v)
            return maps

    model = Unseen("axes").eval()
    with torch.no_grad(), sc.record(model) as maps:
        model(torch.randn(2, 3, 32, 32))
    assert type(maps[""]) is UnplacedWindowMap
    assert maps[""].query_shape == (8,)
    assert not maps[""].has_place
    assert repr(maps) == "Maps('': unplaced window)"
    with raises(sc.BadOption, owner="rollout", option="maps", value="UnplacedWindowMap"):
        maps.rollout()
    with raises(sc.BadShape, owner="look", option="layers"):
        sc.look(model, torch.randn(2, 3, 32, 32), method="attention")


@pytest.mark.parametrize("is_layer", [False, True])
def test_queries_that_are_pooled_in_their_windows(is_layer: bool) -> None:
    """As Hiera does: the largest of the queries of 2 x 2 positions, in windows of 4 x 4.

    As in SAM 2, a layer pools; otherwise the parts of a pool come first in the order of the tokens.
    """

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.qkv = nn.Conv2d(3, CHANNELS, 4, 4), nn.Linear(CHANNELS, 3 * CHANNELS)
            self.pool = nn.MaxPool2d(2)
            self.factors: tuple[Tensor, ...] = ()

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).permute(0, 2, 3, 1).reshape(-1, 2, 2, 2, 3, 2, 2, CHANNELS)
            if is_layer:
                x = x.permute(0, 1, 4, 2, 3, 5, 6, 7).reshape(-1, 16, CHANNELS)
                q, k, v = self.qkv(x).unflatten(2, (3, HEADS, 4)).permute(2, 0, 3, 1, 4).unbind(0)
                q = self.pool(q.mT.reshape(-1, CHANNELS, 4, 4)).reshape(-1, HEADS, 4, 4).mT
                self.factors = tuple(y.unflatten(0, (-1, 6)).transpose(1, 2) for y in (q, k))
            else:
                x = x.permute(0, 1, 4, 3, 6, 2, 5, 7).reshape(-1, 6, 16, CHANNELS)
                q, k, v = self.qkv(x).unflatten(3, (3, HEADS, 4)).permute(3, 0, 4, 1, 2, 5).unbind(0)
                q = q.view(*q.shape[:3], 4, 4, 4).amax(dim=3)
                self.factors = q, k
            return F.scaled_dot_product_attention(q, k, v)

    torch.manual_seed(0)
    model = Pooled().double().eval()
    with torch.no_grad(), sc.record(model) as maps:
        model(torch.randn(2, 3, 32, 48, dtype=torch.float64))
    attention = maps[""]
    assert isinstance(attention, WindowMap)
    assert (attention.query_shape, attention.key_shape) == ((4, 6), (8, 12))
    expected = torch.zeros(2, HEADS, 24, 96, dtype=torch.float64)
    q, k = model.factors
    for window, (y, x) in enumerate((y, x) for y in range(2) for x in range(3)):
        weights = (0.5 * q[:, :, window] @ k[:, :, window].mT).softmax(-1)
        queries = [6 * (2 * y + i) + 2 * x + j for i in range(2) for j in range(2)]
        order = [(i, j, m, n) for m in range(2) for n in range(2) for i in range(2) for j in range(2)]
        order = sorted(order, key=lambda p: (p[0], p[2], p[1], p[3])) if is_layer else order
        keys = [12 * (4 * y + 2 * i + m) + 4 * x + 2 * j + n for i, j, m, n in order]
        expected[:, :, torch.tensor(queries)[:, None], keys] = weights
    torch.testing.assert_close(attention.weights(), expected)
    torch.testing.assert_close(attention.attention_received(), expected.mean((1, 2)).reshape(2, 8, 12))
    row = attention.attention_from(y=1, x=3, head=1)
    torch.testing.assert_close(row, expected[:, 1, 9].reshape(2, 8, 12))


def test_a_sum_of_different_places_is_nowhere() -> None:
    class Sum(Windowed):
        def attend_axes(self, maps: Tensor) -> Tensor:
            x = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 0, 0, 0, 1))
            x = x + x.roll(1, 1)
            x = x.reshape(-1, 2, 4, 2, 4, CHANNELS).transpose(2, 3)
            q, k, v = self.qkv(x).reshape(-1, 4, 16, 3, HEADS, 4).permute(3, 0, 1, 4, 2, 5).unbind(0)
            F.scaled_dot_product_attention(q, k, v)
            return maps

    model = Sum("axes").eval()
    with torch.no_grad(), sc.record(model) as maps:
        model(torch.randn(2, 3, 28, 32))
    assert type(maps[""]) is UnplacedWindowMap


def changed_place(attention: PairwiseMap, other: PairwiseMap) -> tuple[float, float]:
    """Return where the queries of two maps differ most, as shares of height and width."""
    difference = (attention.queries.double() - other.queries.double()).abs()
    if isinstance(attention, WindowMap):
        of_places = difference[0].sum((0, 3))
        heat = torch.zeros(attention.query_shape, dtype=torch.float64).flatten()
        heat[attention.places[attention.places >= 0]] = of_places[attention.places >= 0]
    else:
        heat = difference[0].sum((0, 2))
    y, x = divmod(int(heat.argmax()), attention.query_shape[1])
    return (y + 0.5) / attention.query_shape[0], (x + 0.5) / attention.query_shape[1]


#: Networks that attend within windows: how many of their maps are on the grid of the image, and how many of
#: these, the first ones, still tell the places apart with random weights.
PLACED = {
    "timm maxvit_nano_rw_256": (14, 12),
    "timm davit_tiny": (6, 6),
    "timm hiera_tiny_224": (12, 12),
    "timm gcvit_xxtiny": (12, 1),
    "timm tnt_s_legacy_patch16_224": (24, 2),
    "timm mobilevit_xxs": (9, 4),
    "torchvision maxvit_t": (22, 4),
    "transformers Swin": (2, 2),
    "transformers SwinV2": (2, 2),
    "transformers SAM": (2, 2),
    "transformers MobileViT": (9, 2),
    "monai SwinUNETR": (8, 4),
    "ultralytics yolo12n": (8, 4),
}


@pytest.mark.parametrize(
    "name", [n if n in CORE else pytest.param(n, marks=pytest.mark.slow) for n in PLACED]
)
def test_queries_change_where_the_image_changes(name: str) -> None:
    library = name.partition(" ")[0]
    pytest.importorskip(library, reason=f"{library} is not installed")
    torch.manual_seed(0)
    model, side = NETWORKS[name]()
    inputs = inputs_of(name, side, batch=1)
    ((key, images),) = inputs.items()
    changed, start, size = images.clone(), (side // 5, 5 * side // 7), side // 16
    changed[..., start[0] : start[0] + size, start[1] : start[1] + size] += 3
    recorded = []
    for of_pass in (inputs, {key: changed}):
        with sc.record(model.eval()) as maps:
            run(model, of_pass)
        recorded.append([m for m in maps.values() if isinstance(m, PairwiseMap) and len(m.key_shape) == 2])
    placed = list(zip(*recorded, strict=True))
    count, checked = PLACED[name]
    assert len(placed) == count
    expected = [(n + size / 2) / side for n in start]
    for attention, other in placed[:checked]:
        for found, of_axis, extent in zip(
            changed_place(attention, other), expected, attention.query_shape, strict=True
        ):
            assert found == pytest.approx(of_axis, abs=0.5 / extent + 0.1)
