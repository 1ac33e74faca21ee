"""Relevance: gradient-weighted attention, propagated through all layers of a transformer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from saccade.annotations import check_arguments
from saccade.attribution.attention_pass import AttentionLayer, attention_layers, differentiate
from saccade.attribution.forward import Inputs, with_gradients
from saccade.attribution.targets import Target, target_scores
from saccade.errors import BadShape, bad_option
from saccade.maps import SpatialMap

_OWNER = "relevance"
_MOST_TOKENS = 8192  # of models with cross-attention, whose relevance is held as a matrix


def relevance(model: nn.Module, images: Inputs, target: Target = None, *, start_layer: int = 0) -> SpatialMap:
    """Return the relevance of each image position for a score, by gradient-weighted attention.

        Abar = mean over heads of max(0, dA * A)
        self-attention:             R_ss += Abar R_ss        R_sq += Abar R_sq
        tokens s attend to q:       R_sq += N(R_ss)^T Abar N(R_qq)        R_ss += Abar R_qs
        N(R) = I + (R - I) / (row sums of R - I)

    A holds the weights of a layer and dA the gradient of the score. The result is the mean of the rows of R
    that belong to the tokens from which the model reads the score: the class token, all tokens if they are
    averaged, the object query of a detector. Fused kernels stay on: dA_ij = <do_i, v_j> needs no matrix of
    weights. In a stack of self-attention, a vector is propagated, and memory grows with the number of tokens
    and not with its square.

    References:
        Chefer, Gur, Wolf: Generic Attention-model Explainability for Interpreting Bi-Modal and
        Encoder-Decoder Transformers, ICCV 2021 (equations 5 to 11).

    Args:
        model: A transformer. It runs in evaluation mode, and its state is restored. The caller may be under
            `no_grad`.
        images: Images `(B, 3, H, W)`; or all inputs, as a tuple or a mapping.
        target: A class, one class for each image, or a function of the model's output that returns one score
            per image, such as `segmentation_score` and `detection_score`. Default: the predicted class.
        start_layer: Number of attention layers to leave out at the input; negative numbers count from the
            end. The authors' CLIP uses -1.

    Returns:
        The relevance, `(B, h, w)`, on the grid of the image tokens.

    Raises:
        NothingRecorded: If the model runs no attention between tokens.
        BadShape: If layers attend within windows or on several grids, or the output holds no class scores and
            `target` is no function.
        BadOption: If a class does not exist, `start_layer` is no layer, or the forward pass fails.

    Note:
        Groups of tokens are told apart by their number. Attention between channels and convolutions are
        ignored. Where the authors divide by a row sum
        of zero, a row of N is the row of I. The authors return the row of the class token; the mean over the
        tokens that the score depends on is the same row for models with a class token.

    Example:
        >>> import torch, saccade.models
        >>> model = saccade.models.ViT(32, patch_size=8, classes=5, width=24, depth=2, heads=2, mlp_width=48)
        >>> relevance(model, torch.rand(2, 3, 32, 32), target=1).weights.shape
        torch.Size([2, 4, 4])
    """
    check_arguments(relevance, {"start_layer": start_layer})
    with with_gradients(_OWNER, model, images) as forward:
        layers, output = attention_layers(forward)
        if not -len(layers) <= start_layer < len(layers):
            expected = f"is not among the {len(layers)} attention layers"
            raise bad_option(_OWNER, expected, start_layer=start_layer)
        score = target_scores(_OWNER, output, target, forward.images)
        used = differentiate(_OWNER, score, layers[start_layer:])
        with torch.no_grad():
            rows = _stack_relevance(used) if _is_stack(used) else _stream_relevance(used)
    image = _image_layer(used)
    extra = image.keys - math.prod(image.grid)
    if rows.shape[1] != image.keys:
        message = (
            f"relevance: the tokens of the image change from layer to layer ({_sizes(used)}); use `grad_cam`"
        )
        raise BadShape(message, owner=_OWNER, option="model", value=_sizes(used))
    return SpatialMap(rows[:, extra:].reshape(-1, *image.grid))


def weighted_attention(layer: AttentionLayer) -> Tensor:
    """Return mean over heads of max(0, dA * A), (B, Nq, Nk)."""
    return torch.cat([(a * da).clamp(min=0).mean(1) for _, a, da in layer.rows()], 1)


def _start(layer: AttentionLayer) -> Tensor:
    """Return the share of each token in the score, (B, Nq): equal for all that the score depends on."""
    active = layer.active_queries().to(layer.output.dtype)
    return active / active.sum(1, keepdim=True).clamp(min=1)


def _is_stack(layers: list[AttentionLayer]) -> bool:
    """Return whether all layers are self-attention of the same tokens, or of some of them.

    In class attention (CaiT), the first c of N tokens attend to all, and the other N - c among themselves.
    """
    count = max(layer.keys for layer in layers)
    others = {layer.queries for layer in layers if layer.keys == count} - {count}
    among = {count, *(count - n for n in others)}
    return (
        len(others) < 2
        and all(
            layer.keys == count or (layer.queries == layer.keys and layer.keys in among) for layer in layers
        )
        and (not others or max(others) < min(among))
    )


def _stack_relevance(layers: list[AttentionLayer]) -> Tensor:
    """Return the relevance of the tokens of a stack of self-attention, (B, N), without a matrix."""
    count = max(layer.keys for layer in layers)
    start = _start(layers[-1])
    row = start.new_zeros(len(start), count)
    first = count - layers[-1].keys
    row[:, first : first + start.shape[1]] = start
    for layer in reversed(layers):
        tokens = row[:, count - layer.keys :]
        change = sum(
            torch.einsum("bn,bnk->bk", tokens[:, rows], (a * da).clamp(min=0).mean(1))
            for rows, a, da in layer.rows()
        )
        row = row.clone()
        row[:, count - layer.keys :] += change
    return row


@dataclass(eq=False)
class _Streams:
    """The relevance R of tokens for tokens of all groups of tokens, which their numbers name."""

    batch: int
    like: Tensor
    blocks: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def __getitem__(self, pair: tuple[int, int]) -> Tensor:
        if pair not in self.blocks:
            zeros = self.like.new_zeros(self.batch, *pair)
            self.blocks[pair] = zeros + torch.eye(pair[0]).to(zeros) if pair[0] == pair[1] else zeros
        return self.blocks[pair]

    def normalized(self, tokens: int) -> Tensor:
        """Return N(R) of a group of tokens."""
        identity = torch.eye(tokens).to(self.like)
        change = self[tokens, tokens] - identity
        sums = change.sum(-1, keepdim=True)
        return identity + change / torch.where(sums > 0, sums, 1)

    def update(self, layer: AttentionLayer, groups: set[int]) -> dict[tuple[int, int], Tensor]:
        """Return what an attention adds to R."""
        attention, (s, q) = weighted_attention(layer), (layer.queries, layer.keys)
        if s == q:
            known = {other for other in groups if other == s or (s, other) in self.blocks}
            return {(s, other): attention @ self[s, other] for other in known}
        product = self.normalized(s).mT @ attention @ self.normalized(q)
        back = {(s, s): attention @ self[q, s]} if (q, s) in self.blocks else {}
        return {(s, q): product, **back}


def _stream_relevance(layers: list[AttentionLayer]) -> Tensor:
    """Return the relevance of the image tokens in a model with cross-attention, (B, N)."""
    groups = {layer.queries for layer in layers} | {layer.keys for layer in layers}
    if len(groups) > 2 or max(groups) > _MOST_TOKENS:
        message = f"relevance: needs one or two groups of at most {_MOST_TOKENS} tokens, got {_sizes(layers)}"
        raise BadShape(f"{message}; use `grad_cam`", owner=_OWNER, option="model", value=_sizes(layers))
    streams = _Streams(len(layers[0].attention.queries), layers[0].output.detach())
    index = 0
    while index < len(layers):
        # Both directions of co-attention read the state before either of them.
        pair = [layers[index]]
        following = layers[index + 1 : index + 2]
        if following and (following[0].queries, following[0].keys) == (pair[0].keys, pair[0].queries):
            pair += following if pair[0].queries != pair[0].keys else []
        for changes in [streams.update(layer, groups) for layer in pair]:
            for key, change in changes.items():
                streams.blocks[key] = streams[key] + change
        index += len(pair)
    read, image = layers[-1].queries, _image_layer(layers).keys
    if (read, image) not in streams.blocks:
        message = (
            f"relevance: no attention leads from the {image} tokens of the image to the {read} that the score"
        )
        raise BadShape(
            f"{message} depends on; use `grad_cam`", owner=_OWNER, option="model", value=_sizes(layers)
        )
    return torch.einsum("bn,bnk->bk", _start(layers[-1]), streams[read, image])


def _image_layer(layers: list[AttentionLayer]) -> AttentionLayer:
    """Return a layer whose keys are all tokens of the image."""
    return max(layers, key=lambda layer: (len(layer.grid), layer.keys))


def _sizes(layers: list[AttentionLayer]) -> str:
    return ", ".join(dict.fromkeys(f"{layer.queries} x {layer.keys}" for layer in layers))
