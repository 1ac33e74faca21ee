"""`record`, `look` and explanations on networks of other libraries."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saccade as sc
from saccade.attribution import relevance
from saccade.maps import PairwiseMap, WindowMap
from support.external_networks import CORE, NETWORKS, Operations, inputs_of, run

#: Softmaxes of positions that a network mixes with those of contents: one attention each.
MIXED = {"timm convit_tiny": 10}
#: Wide networks of equal blocks, of which two are enough.
SHALLOW: dict[str, dict[str, Any]] = {
    "timm beit_base_patch16_224": {"depth": 2},
    "timm vit_base_patch16_siglip_224": {"depth": 2},
}
#: Encoders without attention with a place in the image: there is no score to explain.
UNEXPLAINED: set[str] = set()
#: Networks that return no weights, or those of points.
NO_TWIN = {"transformers SAM", "transformers Deformable DETR"}
_TRANSFORMERS = ("timm vit_tiny_patch16_224", "timm beit_base_patch16_224", "timm cait_xxs24_224")


def build(name: str) -> tuple[Any, dict[str, Any]]:
    library = name.partition(" ")[0]
    pytest.importorskip(library, reason=f"{library} is not installed")
    torch.manual_seed(0)
    model, side = NETWORKS[name](**SHALLOW.get(name, {}))
    return model.eval(), inputs_of(name, side)


def names(keep: Any = None) -> list[Any]:
    chosen = [name for name in NETWORKS if keep is None or keep(name)]
    return [pytest.param(name, marks=() if name in CORE else pytest.mark.slow, id=name) for name in chosen]


@pytest.mark.parametrize("name", names())
def test_all_attention_is_recorded_or_named(name: str) -> None:
    model, inputs = build(name)
    expected = run(model, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with sc.record(model) as maps:
                found = run(model, inputs)
        except sc.NothingRecorded:
            maps = None
            found = run(model, inputs)
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    counter = Operations()
    with counter:
        run(model, inputs)
    kinds = PairwiseMap | sc.ChannelMap | sc.SpatialMap  # the last is that of deformable attention
    recorded = [] if maps is None else [m for m in maps.values() if isinstance(m, kinds)]
    unseen = () if maps is None else maps.unseen
    assert len(recorded) + len(unseen) >= counter.count - MIXED.get(name, 0)
    for attention in recorded:
        assert attention.saliency().isfinite().all()


def all_weights(attention: PairwiseMap, last: int) -> Tensor:
    """Return the weights in the order of the model, in which the last of the tokens are no places."""
    if isinstance(attention, WindowMap):
        return attention.window_weights().transpose(1, 2)
    weights = attention.tokens().weights()
    order = [*range(len(weights[0, 0]))]
    order = [order[0], *order[1 + last :], *order[1 : 1 + last]]
    return weights[:, :, order][..., order] if last else weights


@pytest.mark.parametrize("name", names(lambda name: name.startswith("transformers")))
def test_the_weights_are_those_of_the_eager_twin(name: str) -> None:
    model, inputs = build(name)
    if not getattr(model, "_supports_sdpa", False) or name in NO_TWIN:
        pytest.skip("the network has no eager twin that returns the weights of pairs")
    with torch.no_grad(), sc.record(model) as maps:
        model(**inputs)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**inputs, output_attentions=True)
    attentions = getattr(output, "attentions", None) or getattr(output, "encoder_attentions", None) or ()
    recorded = [m for m in maps.values() if isinstance(m, PairwiseMap)]
    assert attentions
    own = [all_weights(m, last=5 if "YOLOS" in name else 0) for m in recorded]
    for weights in attentions:
        same = [x for x in own if x.numel() == weights.numel()]
        assert any(torch.allclose(x.reshape(weights.shape), weights, atol=1e-6, rtol=1e-4) for x in same)


@pytest.mark.parametrize("name", names(lambda name: "diffusers" not in name))
def test_look_draws_a_map_or_says_why(name: str) -> None:
    model, inputs = build(name)
    (images,) = inputs.values()
    if name in UNEXPLAINED:
        with pytest.raises(sc.BadShape, match="target"):
            sc.look(model, images)
        return
    seen = sc.look(model, images)
    for path, heat in seen.saliency.items():
        assert heat.shape[0] == 2, path
        ratio = heat.shape[1] / heat.shape[2]
        assert ratio == pytest.approx(1, rel=0.5), path  # the images are squares


@pytest.mark.parametrize(
    "name",
    ["timm vit_tiny_patch16_224", "timm beit_base_patch16_224", "timm cait_xxs24_224", "vit_pytorch ViT"],
)
def test_relevance_changes_with_the_class(name: str) -> None:
    model, inputs = build(name)
    for path, module in model.named_parameters():
        if path.endswith(("gamma_1", "gamma_2")):
            nn.init.ones_(module)
    first, second = (relevance(model, inputs[""], target).weights[0].flatten() for target in (0, 1))
    assert min(first.std(), second.std()) > 0
    first, second = ((x - x.mean()) / x.std() for x in (first, second))
    assert not torch.allclose(first, second, atol=0.01)
