"""LeGrad: the sensitivity of a score to the attention of every layer of a vision transformer."""

from __future__ import annotations

import math
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from saccade.annotations import check_arguments
from saccade.attribution.attention_pass import AttentionLayer, attention_layers, differentiate
from saccade.attribution.forward import ForwardPass, Inputs, with_gradients
from saccade.attribution.targets import Target, find_scores, target_scores
from saccade.errors import BadShape, bad_option
from saccade.maps import SpatialMap
from saccade.model_state import temporary_hooks

_OWNER = "legrad"


def legrad(model: nn.Module, images: Inputs, target: Target = None, *, start_layer: int = 0) -> SpatialMap:
    """Return how sensitive a score is to the attention that each image position receives, over all layers.

        E_l = mean over heads h and queries i of max(0, d s_l / d A_l,hij)        M_j = sum_l E_lj

    s_l is the score that the model computes from the output of block l, as if block l were its last block.
    Fused kernels stay on, and no matrix of weights is held.

    References:
        Bousselham et al.: LeGrad: An Explainability Method for Vision Transformers via Feature Formation
        Sensitivity, ICCV 2025.

    Args:
        model: A transformer whose blocks return tokens of one shape. It runs in evaluation mode, and its
            state is restored.
        images: Images `(B, 3, H, W)`; or all inputs, as a tuple or a mapping.
        target: A class, one class for each image, or a function of the model's output that returns one score
            per image. Default: the predicted class.
        start_layer: Number of attention layers to leave out at the input; negative numbers count from the
            end. The authors' CLIP uses -2.

    Returns:
        The sensitivity, `(B, h, w)`, on the grid of the image tokens.

    Raises:
        NothingRecorded: If the model runs no attention between tokens.
        BadShape: If the blocks differ in the shape of their outputs, or the output holds no class scores and
            `target` is no function.
        BadOption: If a class does not exist, `start_layer` is no layer, or the forward pass fails.

    Note:
        The model's own pooling reads every s_l. The authors average the tokens of CLIP instead of reading the
        class token, and resize each E_l before the sum, which is the same for one grid.

    Example:
        >>> import torch, saccade.models
        >>> model = saccade.models.ViT(32, patch_size=8, classes=5, width=24, depth=2, heads=2, mlp_width=48)
        >>> legrad(model, torch.rand(2, 3, 32, 32), target=1).weights.shape
        torch.Size([2, 4, 4])
    """
    check_arguments(legrad, {"start_layer": start_layer})
    with with_gradients(_OWNER, model, images) as forward:
        outputs: dict[str, Tensor] = {}
        layers, output = _run(forward, outputs)
        if not -len(layers) <= start_layer < len(layers):
            expected = f"is not among the {len(layers)} attention layers"
            raise bad_option(_OWNER, expected, start_layer=start_layer)
        blocks = _blocks(forward, layers, outputs)
        scores = find_scores(output)
        if target is None and isinstance(scores, Tensor) and scores.ndim == 2:
            target = scores.argmax(1)  # of the whole model, for every layer
        heat = sum(
            _sensitivity(forward, layer, outputs[block], blocks[-1], target)
            for layer, block in list(zip(layers, blocks, strict=True))[start_layer:]
        )
    extra, grid = layers[-1].keys - math.prod(layers[-1].grid), layers[-1].grid
    return SpatialMap(torch.as_tensor(heat)[:, extra:].reshape(-1, *grid))


def _run(forward: ForwardPass, outputs: dict[str, Tensor]) -> tuple[list[AttentionLayer], Any]:
    """Run the model; keep the output of every module that returns tokens."""

    def keep(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tokens = _tokens(output)
            if tokens is not None:
                outputs[path] = tokens

        return hook

    modules = forward.model.named_modules()
    with temporary_hooks(m.register_forward_hook(keep(path)) for path, m in modules if path):
        return attention_layers(forward)


def _tokens(output: Any) -> Tensor | None:
    """Return the tokens of a block, which may return them with more."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first if isinstance(first, Tensor) and first.ndim == 3 else None


def _blocks(forward: ForwardPass, layers: list[AttentionLayer], outputs: dict[str, Tensor]) -> list[str]:
    """Return the path of the block of each attention layer: the children of their common module."""
    paths = [layer.path.split(".") for layer in layers]
    depth = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False)))
    blocks = [".".join(path[: depth + 1]) for path in paths]
    shapes = {tuple(outputs[block].shape) if block in outputs else None for block in blocks}
    if len(layers) < 2 or len(set(blocks)) < len(blocks) or len(shapes) > 1 or None in shapes:
        message = f"legrad: {forward.name} is no stack of blocks with one attention and equal tokens each"
        raise BadShape(f"{message}; use `grad_cam`", owner=_OWNER, option="model", value=forward.name)
    return blocks


def _sensitivity(
    forward: ForwardPass, layer: AttentionLayer, tokens: Tensor, last_block: str, target: Target
) -> Tensor:
    """Return E_l, (B, Nk): what the model computes from these tokens, as if they came from its last block."""

    def replace(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return (tokens, *output[1:]) if isinstance(output, tuple | list) else tokens

    with temporary_hooks([forward.model.get_submodule(last_block).register_forward_hook(replace)]):
        score = target_scores(_OWNER, forward.run(), target, forward.images)
    differentiate(_OWNER, score, [layer], retain_graph=True)
    total = sum(gradient.clamp(min=0).mean(1).sum(1) for _, _, gradient in layer.rows())
    return torch.as_tensor(total) / layer.queries
