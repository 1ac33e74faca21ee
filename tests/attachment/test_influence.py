"""Places behind the last attention of a model whose head reads the class token alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import saccade as sc
from support.errors import raises

X = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
VIT: dict[str, Any] = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}


def of_timm(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **{**VIT, **options})


def of_transformers(head: str) -> nn.Module:
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    model: nn.Module = getattr(library, head)(library.ViTConfig(**sizes, image_size=(32, 48), patch_size=8))
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # with the number of places without influence
    "timm, class token": (of_timm, 2),
    "timm, class token and registers": (lambda: of_timm(reg_tokens=4), 2),
    "timm, mean over the patches": (lambda: of_timm(global_pool="avg"), 0),
    "transformers, class token": (lambda: of_transformers("ViTForImageClassification"), 2),
    "transformers, all tokens": (lambda: of_transformers("ViTModel"), 0),
}


def gates(model: nn.Module) -> dict[str, bool]:
    """Return whether each gate gets a gradient in a step of training."""
    output: Any = model.train()(X)
    values = [output] if isinstance(output, Tensor) else [*output.values()]
    torch.stack([value.square().sum() for value in values]).sum().backward()
    named = model.named_parameters()
    return {key: p.grad is not None and bool(p.grad.any()) for key, p in named if key.endswith(".gate")}


@pytest.mark.parametrize("name", MODELS)
def test_places_without_influence_are_skipped_and_named(name: str) -> None:
    build, count = MODELS[name]
    model = build()
    plan = sc.attach(model, "cbam", example_inputs=X)
    refused = [site for site in plan if site.refused]
    assert len(plan) == 6
    assert refused == list(plan[6 - count :])
    assert all("class token" in (site.refused or "") for site in refused)
    assert len(sc.attached(model)) == 6 - count
    assert [*gates(model).values()] == [True] * (6 - count)
    sc.detach(model)
    listed = sc.sites(model, X, "cbam").of("residual")
    assert [site.path for site in listed if site.refused] == [site.path for site in refused]


def test_a_head_of_zeros_hides_no_influence() -> None:
    model = of_timm()
    nn.init.zeros_(model.get_parameter("head.weight"))
    plan = sc.attach(model, "cbam", example_inputs=X)
    assert [site.path for site in plan if site.refused] == ["blocks.2.attn", "blocks.2.mlp"]


@pytest.mark.parametrize("name", ["se", "self_attention"])
def test_a_mechanism_that_takes_the_class_token_fits_everywhere(name: str) -> None:
    plan = sc.attach(of_timm(), name, example_inputs=X)
    assert [site.refused for site in plan] == [None] * 6


def test_a_path_without_influence_is_refused() -> None:
    model = of_timm()
    with raises(sc.BadOption, owner="attach", option="where", value="blocks.2.attn"):
        sc.attach(model, "cbam", where=["blocks.*.attn"], example_inputs=X)
    with raises(sc.BadOption, owner="attach", option="where", value="head"):
        sc.attach(model, "cbam", where="head", example_inputs=X)
    assert sc.attached(model) == ()
    plan = sc.attach(model, "cbam", where=["blocks.*.attn"], example_inputs=X, skip_unfit=True)
    assert [site.refused is None for site in plan] == [True, True, False]
    sc.detach(model)
    chosen = sc.attach(model, "cbam", where=lambda site: site.path.endswith("mlp"), example_inputs=X)
    assert [site.refused is None for site in chosen] == [True, True, False]


def test_the_places_are_the_same_on_the_meta_device() -> None:
    with torch.device("meta"):
        plan = sc.attach(of_timm(), "cbam", example_inputs=X.to("meta"))
    assert [site.refused is None for site in plan] == [True, True, True, True, False, False]


class Reader(nn.Module):
    """Tokens with a class token before them, of which an operation reads some at the end."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.zeros(1, 2, 16))
        self.mlp, self.norm, self.read = nn.Linear(16, 16), nn.LayerNorm(16), read

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), 2, 16), x], 1)
        x = x + 0.1 * self.mlp(x)
        return self.read(torch.nn.functional.gelu(self.norm(x)))


READS: dict[str, Callable[[Tensor], Tensor]] = {
    "an index": lambda x: x[:, 0],
    "a slice": lambda x: x[:, :2].mean(1),
    "an index after an ellipsis": lambda x: x[..., 1, :],
    "two indices": lambda x: x[:, 0] + x[:, 1],
    "a token of the grid": lambda x: x[:, 2],
    "a slice of the grid": lambda x: x[:, 2:].mean(1),
    "the last token": lambda x: x[:, -1],
    "a mean": lambda x: x.mean(1),
    "a transposition": lambda x: x.mT[..., 0] * x.sum(),
    "a tensor of indices": lambda x: x[torch.arange(len(x)), torch.zeros(len(x), dtype=torch.long)],
    "an assignment": lambda x: x.index_add(1, torch.tensor([0]), x[:, 5:6])[:, 0],
    "channels": lambda x: x[:, 0, 3:],
    "a part of the batch": lambda x: x[1:],
    "a token of a part of the batch": lambda x: x[1:, 0],
}


@pytest.mark.parametrize("name", READS)
def test_influence_is_that_of_values_that_are_no_numbers(name: str) -> None:
    torch.manual_seed(0)
    model = Reader(READS[name]).eval()

    def erase(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return torch.cat([output[:, :2], torch.full_like(output[:, 2:], torch.nan)], 1)

    (site,) = sc.sites(model, X, "cbam").of("residual")
    with torch.no_grad():
        handle = model.mlp.register_forward_hook(erase)
        is_read = bool(model(X).isnan().any())
        handle.remove()
    if name == "a tensor of indices":  # values are not followed
        assert not is_read
        assert site.refused is None
    else:
        assert (site.refused is None) == is_read
