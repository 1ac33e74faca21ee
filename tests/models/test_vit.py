"""ViT equals timm's, SimpleViT vit-pytorch's: values and all gradients from the same weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call
from vit_pytorch.simple_vit import SimpleViT as TheirSimpleViT
from vit_pytorch.simple_vit_1d import SimpleViT as TheirSequenceViT

import saccade as sc
from saccade.maps import ClassTokenMap
from saccade.models import SimpleViT, ViT
from support.parity import Parameters, assert_close, assert_parity, normal

SIZE, PATCH = (24, 40), (8, 4)  # a grid of 3 x 10 patches that are not square either


def randomized(model: nn.Module) -> nn.Module:
    """The model in float64 with weights far from their start, so that no zero and no symmetry helps it."""
    torch.manual_seed(0)
    for parameter in model.double().parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def in_order(theirs: nn.Module) -> Callable[..., Tensor]:
    """A reference that gives our parameters to their model one by one: equal in number, order and shape."""
    theirs = theirs.double()
    names, shapes = zip(*((name, p.shape) for name, p in theirs.named_parameters()), strict=True)

    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        assert [p.shape for p in parameters.values()] == [*shapes]
        result: Tensor = functional_call(theirs, dict(zip(names, parameters.values(), strict=True)), (x,))
        return result

    return reference


@pytest.mark.parametrize("head_width", [64, 5])
def test_simple_vit_equals_vit_pytorch(head_width: int) -> None:
    ours = SimpleViT(
        SIZE, PATCH, classes=7, width=24, depth=2, heads=3, mlp_width=20, channels=2, head_width=head_width
    )
    theirs = TheirSimpleViT(
        image_size=SIZE,
        patch_size=PATCH,
        num_classes=7,
        dim=24,
        depth=2,
        heads=3,
        mlp_dim=20,
        channels=2,
        dim_head=head_width,
    )
    assert_parity(randomized(ours), in_order(theirs), normal(3, 2, *SIZE))


def test_the_default_head_width_is_that_of_vit_pytorch() -> None:
    ours = SimpleViT(32, 8, classes=7, width=24, depth=2, heads=3, mlp_width=20)
    theirs = TheirSimpleViT(image_size=32, patch_size=8, num_classes=7, dim=24, depth=2, heads=3, mlp_dim=20)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]


def test_channel_tokens_equal_vit_pytorch_on_a_sequence_of_groups() -> None:
    channels, group, places = 12, 3, 35

    def groups(x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, values of a group, groups), channel by channel."""
        return torch.stack([x[:, i : i + group].flatten(1) for i in range(0, channels, group)], dim=-1)

    ours = SimpleViT(
        (7, 5),
        classes=4,
        width=24,
        depth=2,
        heads=3,
        mlp_width=20,
        channels=channels,
        tokens="channels",
        group_size=group,
    )
    theirs = TheirSequenceViT(
        seq_len=channels // group,
        patch_size=1,
        num_classes=4,
        dim=24,
        depth=2,
        heads=3,
        mlp_dim=20,
        channels=group * places,
    )
    reference = in_order(theirs)
    assert_parity(randomized(ours), lambda p, x: reference(p, groups(x)), normal(3, channels, 7, 5))


def timm_vit() -> VisionTransformer:
    return VisionTransformer(
        img_size=SIZE, patch_size=PATCH, num_classes=7, embed_dim=24, depth=2, num_heads=3
    ).double()


def our_vit() -> ViT:
    return ViT(SIZE, PATCH, classes=7, width=24, depth=2, heads=3, mlp_width=96)


def test_vit_equals_timm_under_its_names() -> None:
    theirs = timm_vit()

    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        assert parameters.keys() == dict(theirs.named_parameters()).keys()
        result: Tensor = functional_call(theirs, dict(parameters), (x,))
        return result

    assert_parity(randomized(our_vit()), reference, normal(3, 3, *SIZE))
    our_vit().double().load_state_dict(theirs.state_dict())


def test_vit_on_channel_tokens_equals_timm_on_patches_of_the_same_values() -> None:
    """The groups of a map, laid out as the rows of an image with one patch in each."""
    channels, group = 12, 3
    ours = ViT(
        (5, 7),
        classes=7,
        width=24,
        depth=2,
        heads=3,
        mlp_width=96,
        channels=channels,
        tokens="channels",
        group_size=group,
    )
    theirs = VisionTransformer(
        img_size=(4, group * 35),
        patch_size=(1, group * 35),
        in_chans=1,
        num_classes=7,
        embed_dim=24,
        depth=2,
        num_heads=3,
    ).double()

    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        given = dict(parameters)
        given["patch_embed.proj.weight"] = given["patch_embed.proj.weight"][:, None, None]
        result: Tensor = functional_call(theirs, given, (x.reshape(len(x), 1, 4, group * 35),))
        return result

    assert_parity(randomized(ours), reference, normal(3, channels, 5, 7))


def test_the_recorded_rows_are_the_softmax_over_places_and_class_token() -> None:
    """timm's own weights, from its attention without the fused kernel, block by block."""
    model, theirs = our_vit().double(), timm_vit()
    theirs.load_state_dict(randomized(model).state_dict())
    seen: list[Tensor] = []
    for name, module in theirs.named_modules():
        if name.endswith(".attn"):
            setattr(module, "fused_attn", False)  # noqa: B010
        if name.endswith(".attn_drop"):
            module.register_forward_hook(lambda _m, _x, weights: seen.append(weights.detach()))
    x = normal(2, 3, *SIZE)
    theirs.eval()(x)
    with sc.record(model) as maps:
        model(x)
    assert [*maps] == ["blocks.0.attn", "blocks.1.attn"]
    for recorded, weights in zip(maps.values(), seen, strict=True):
        assert isinstance(recorded, ClassTokenMap)
        assert_close("rows of patches", recorded.weights(), weights[:, :, 1:, 1:])
        assert_close(
            "row of the class token", recorded.class_row(), weights[:, :, 0, 1:].mean(1).reshape(2, 3, 10)
        )
        assert_close("one head", recorded.class_row(head=2), weights[:, 2, 0, 1:].reshape(2, 3, 10))
        assert_close(
            "one patch",
            recorded.attention_from(y=1, x=7),
            weights[:, :, 1 + 17, 1:].mean(1).reshape(2, 3, 10),
        )
        assert_close(
            "received", recorded.attention_received(), weights[:, :, 1:, 1:].mean((1, 2)).reshape(2, 3, 10)
        )
        assert torch.equal(recorded.saliency(), recorded.class_row())
