"""Queries of a decoder and selected tokens have no grid, even if a feature map has as many positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saccade as sc
from saccade.maps import PairwiseMap
from support.external_networks import DETR

GRID, COUNT, WIDTH, HEADS = (4, 5), 20, 16, 2


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, *(4 * side for side in GRID), generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Attention of queries to a memory, fused, of products or by `einsum`."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        parts = (*self.q(queries).chunk(1, -1), *self.kv(memory).chunk(2, -1))
        q, k, v = (x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in parts)
        if self.form == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.form == "einsum":
            y = torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1), v)
        else:
            y = ((q @ k.mT).clamp(-9, 9) if self.form == "clamped" else q @ k.mT).softmax(-1) @ v
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class Layer(nn.Module):
    """A layer of a DETR decoder; positions are added to the queries of every attention."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.itself, self.cross = Attention(form), Attention(form)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor, memory: Tensor, positions: Tensor) -> Tensor:
        x = self.norms[0](x + self.itself(x + positions, x + positions))
        x = self.norms[1](x + self.cross(x + positions, memory))
        out: Tensor = self.norms[2](x + self.mlp(x))
        return out


class Detector(nn.Module):
    """A detector with as many queries as its feature map has positions."""

    def __init__(self, form: str = "fused", queries: str = "learned") -> None:
        super().__init__()
        self.queries = queries
        self.stem, self.places = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.randn(1, COUNT, WIDTH))
        self.encoder = Attention(form)
        self.embedding = nn.Embedding(COUNT, WIDTH)
        self.pairs, self.point = nn.Parameter(torch.randn(COUNT, 2 * WIDTH)), nn.Linear(WIDTH, 2)
        self.rank, self.position = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList(Layer(form) for _ in range(2))
        self.pool = nn.MaxPool2d(2, ceil_mode=True)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        memory = maps.flatten(2).mT + self.places.expand(len(images), -1, -1)
        memory = memory + self.encoder(memory, memory)
        if self.queries == "learned":
            positions = self.embedding.weight.unsqueeze(0).repeat(len(images), 1, 1)
            x = torch.zeros_like(positions)
        elif self.queries == "split":
            positions, x = self.pairs.split(WIDTH, 1)
            positions, x = (y.expand(len(images), -1, -1) for y in (positions, x))
        elif self.queries == "points":  # waves of two coordinates of each query
            points = self.point(self.embedding.weight).sigmoid().expand(len(images), -1, -1)
            waves = points[:, :, :, None] / torch.arange(1, WIDTH // 4 + 1)
            positions = torch.stack((waves.sin(), waves.cos()), 4).flatten(2)
            x = self.embedding.weight.repeat(len(images), 1, 1)
        elif self.queries == "zeros":
            positions, x = self.embedding.weight[None], torch.zeros(len(images), COUNT, WIDTH)
        else:  # the best of the tokens of two feature maps
            both = torch.cat([memory, F.avg_pool2d(maps, 2, ceil_mode=True).flatten(2).mT], 1)
            best = self.rank(both)[..., 0].topk(COUNT).indices
            if self.queries == "gathered":
                x = both.gather(1, best[..., None].expand(-1, -1, WIDTH))
            else:
                x = both[torch.arange(len(both))[:, None].expand_as(best), best]
            positions = self.position(x.detach())
        for layer in self.layers:
            x = layer(x, memory, positions)
        return x


def grids(model: nn.Module, batch: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    x, found = images(batch), {}
    model.eval()
    with torch.no_grad():
        torch.manual_seed(0)
        expected = model(x)
        torch.manual_seed(0)
        with sc.record(model) as maps:
            assert torch.equal(model(x), expected)
    for path, attention in maps.items():
        assert isinstance(attention, PairwiseMap)
        found[path] = attention.query_shape, attention.key_shape
    assert not maps.unseen
    return found


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("queries", ["learned", "split", "points", "zeros", "gathered", "indexed"])
@pytest.mark.parametrize("form", ["fused", "product"])
def test_queries_of_a_decoder_are_no_grid(form: str, queries: str, batch: int) -> None:
    found = grids(Detector(form, queries), batch)
    expected: dict[str, Any] = {"encoder": (GRID, GRID)}
    for layer in ("layers.0", "layers.1"):
        expected |= {f"{layer}.itself": ((COUNT,), (COUNT,)), f"{layer}.cross": ((COUNT,), GRID)}
    assert found == expected


@pytest.mark.parametrize("form", ["einsum", "clamped"])
def test_queries_are_known_without_factors(form: str) -> None:
    found = grids(Detector(form), 2)
    assert found["encoder"] == (GRID, GRID)
    assert found["layers.1.cross"] == ((COUNT,), GRID)


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_decoder_of_torch(batch_first: bool) -> None:
    """An adapter observes its attention, inside of which no operation is followed."""

    class Torch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.queries = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.randn(COUNT, WIDTH))
            self.encoder = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=batch_first)
            layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 32, batch_first=batch_first)
            self.decoder = nn.TransformerDecoder(layer, 2)

        def forward(self, images: Tensor) -> Tensor:
            axis = 0 if batch_first else 1
            tokens = self.stem(images).flatten(2)
            memory = self.encoder(tokens.mT if batch_first else tokens.permute(2, 0, 1))
            queries = torch.stack([self.queries] * len(images), axis)
            out: Tensor = self.decoder(queries, memory)
            return out

    found = grids(Torch(), 3)
    assert found["encoder.self_attn"] == (GRID, GRID)
    for number in (0, 1):
        assert found[f"decoder.layers.{number}.self_attn"] == ((COUNT,), (COUNT,))
        assert found[f"decoder.layers.{number}.multihead_attn"] == ((COUNT,), GRID)


def test_sampling_of_an_image_at_points_of_the_queries_keeps_them() -> None:
    """The output of a module is a set of queries if its first input is one, whatever it computes."""

    class Sampling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.points = nn.Linear(WIDTH, 2)

        def forward(self, x: Tensor, maps: Tensor) -> Tensor:
            return F.grid_sample(maps, self.points(x).tanh()[:, :, None], align_corners=False)[..., 0].mT

    class Sampler(Detector):
        def __init__(self) -> None:
            super().__init__()
            self.sampling = Sampling()

        def forward(self, images: Tensor) -> Tensor:
            x = self.embedding.weight.expand(len(images), -1, -1)
            x = x + self.sampling(x, self.stem(images))
            out: Tensor = self.encoder(x, x)
            return out

    assert grids(Sampler(), 2) == {"encoder": ((COUNT,), (COUNT,))}


def test_an_image_that_queries_read_is_still_a_grid() -> None:
    """As in SAM: the positions of the image attend to the queries, too."""

    class TwoWays(Detector):
        def forward(self, images: Tensor) -> Tensor:
            memory = self.stem(images).flatten(2).mT + self.places
            x = self.embedding.weight.expand(len(images), -1, -1)
            first, second = (layer.get_submodule("cross") for layer in self.layers)
            x = x + first(x, memory)
            memory = memory + second(memory, x)
            out: Tensor = self.encoder(memory, memory)
            return out

    assert grids(TwoWays(), 2) == {
        "encoder": (GRID, GRID),
        "layers.0.cross": ((COUNT,), GRID),
        "layers.1.cross": (GRID, (COUNT,)),
    }


def test_tokens_that_a_mask_has_left_are_no_grid_and_all_of_them_are() -> None:
    """As in MAE: an encoder of some patches, which happen to fill a grid, and a decoder of all."""

    class Masked(Detector):
        def forward(self, images: Tensor) -> Tensor:
            maps = self.stem(images)
            self.pool(maps)
            x = maps.flatten(2).mT + self.places
            order = torch.rand(x.shape[:2]).argsort(1)[..., None].expand(-1, -1, WIDTH)
            kept = x.gather(1, order[:, :6])  # the pooled map has 6 positions, too
            kept = kept + self.encoder(kept, kept)
            hidden = self.embedding.weight[:1].expand(len(x), COUNT - 6, -1)
            x = torch.cat([kept, hidden], 1).gather(1, order.argsort(1)) + self.places
            out: Tensor = self.layers.get_submodule("0.itself")(x, x)
            return out

    assert grids(Masked(), 2) == {"encoder": ((6,), (6,)), "layers.0.itself": (GRID, GRID)}


def test_what_an_image_is_written_into_is_no_set() -> None:
    class Canvas(Detector):
        def __init__(self, how: str) -> None:
            super().__init__()
            self.how = how

        def forward(self, images: Tensor) -> Tensor:
            x = torch.zeros(len(images), COUNT, WIDTH)
            memory = self.stem(images).flatten(2).mT
            if self.how == "item":
                x[:, :] = memory
            elif self.how == "copy":
                x.copy_(memory)
            else:
                x += memory
            out: Tensor = self.encoder(x, x)
            return out

    for how in ("item", "copy", "add"):
        assert grids(Canvas(how), 2) == {"encoder": (GRID, GRID)}, how


_BEGINNING = "model.decoder.layers.0"


@pytest.mark.parametrize("name", ["Detr", "ConditionalDetr", "DeformableDetr"])
def test_detectors_of_transformers(name: str) -> None:
    """Nine queries, and a feature map of 3 x 3 positions."""
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    config = getattr(library, f"{name}Config")(**DETR | {"num_queries": 9, "decoder_layers": 2})
    model = getattr(library, f"{name}ForObjectDetection")(config).eval()
    with torch.no_grad(), sc.record(model) as maps:
        model(pixel_values=torch.rand(2, 3, 96, 96))
    itself, cross = (maps[f"{_BEGINNING}.{part}"] for part in ("self_attn", "encoder_attn"))
    assert isinstance(itself, PairwiseMap)
    assert itself.query_shape == itself.key_shape == (9,)
    if name != "DeformableDetr":
        assert isinstance(cross, PairwiseMap)
        assert (cross.query_shape, cross.key_shape) == ((9,), (3, 3))
