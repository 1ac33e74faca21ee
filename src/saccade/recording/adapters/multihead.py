"""`torch.nn.MultiheadAttention`, alone or inside `torch.nn.TransformerEncoderLayer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade._torch import has_own_attention_block
from saccade.maps import PairwiseMap
from saccade.model_state import Handle
from saccade.recording.adapters.observe import Observer, Publish
from saccade.recording.adapters.tokens import AttentionSite, Layout, mask_to_bias

Mask = Tensor | None
Masks = tuple[Mask, Mask]


def observe_multihead(site: AttentionSite, publish: Publish) -> list[Handle]:
    """Observe an attention.

    The fast path of an encoder layer skips the attention module and is disabled by hooks. To keep the results
    the same bit for bit, the `forward` of the layer is observed instead.
    """
    attention, layer = site.module, site.parent
    if layer is not None and _has_fast_path(layer, attention):

        def layer_adapter(layer: Any, inputs: Mapping[str, Any], _output: Any) -> PairwiseMap:
            x = inputs["src"]
            x = layer.norm1.forward(x) if layer.norm_first else x
            masks = inputs.get("src_mask"), inputs.get("src_key_padding_mask")
            return _pairwise_map(attention, x, x, masks, site.layout)

        return [Observer(layer, layer_adapter, publish, wrap=True)]

    def adapter(module: Any, inputs: Mapping[str, Any], _output: Any) -> PairwiseMap:
        masks = inputs.get("attn_mask"), inputs.get("key_padding_mask")
        return _pairwise_map(module, inputs["query"], inputs["key"], masks, site.layout)

    return [Observer(attention, adapter, publish)]


def _has_fast_path(layer: nn.Module, attention: nn.Module) -> bool:
    """Return whether this is an encoder layer that computes what torch defines."""
    return (
        isinstance(layer, nn.TransformerEncoderLayer)
        and layer.self_attn is attention
        and "forward" not in vars(layer)
        and type(layer).forward is nn.TransformerEncoderLayer.forward
        and not has_own_attention_block(layer)
    )


def _pairwise_map(attention: Any, query: Tensor, key: Tensor, masks: Masks, layout: Layout) -> PairwiseMap:
    """Return the map of one call, from its inputs and the weights of the attention."""
    attn_mask, key_padding_mask = masks
    if query.is_nested:  # the encoder removes padding this way
        key_padding_mask = _padding(query)
        query = key = query.to_padded_tensor(0.0)
    elif query.ndim == 2:
        query, key = query.unsqueeze(0), key.unsqueeze(0)
    elif not attention.batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    heads, head_dim = attention.num_heads, attention.head_dim
    q, k = (x.unflatten(2, (heads, head_dim)).transpose(1, 2) for x in _project(attention, query, key))
    bias = _bias(attn_mask, key_padding_mask, heads, query.dtype)
    extra = 0  # keys that are no tokens
    if attention.add_zero_attn:
        k, extra = F.pad(k, (0, 0, 1, 0)), 1
    if attention.bias_k is not None:  # a learned key
        learned = attention.bias_k.reshape(1, heads, 1, head_dim).expand(len(k), -1, -1, -1)
        k, extra = torch.cat([learned.to(k), k], 2), extra + 1
    if bias is not None:
        bias = F.pad(bias, (extra, 0))
    return layout.build_map(q, k, head_dim**-0.5, bias, more_keys=extra)


def _project(attention: Any, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    if attention.in_proj_weight is not None:
        wq, wk, _ = attention.in_proj_weight.chunk(3)
    else:  # keys or values of another width
        wq, wk = attention.q_proj_weight, attention.k_proj_weight
    bias = attention.in_proj_bias
    bq, bk, _ = (None, None, None) if bias is None else bias.chunk(3)
    return F.linear(query, wq, bq), F.linear(key, wk, bk)


def _bias(attn_mask: Mask, key_padding_mask: Mask, heads: int, dtype: torch.dtype) -> Mask:
    """Return the sum of both masks as a bias of the logits; the axes of heads and queries may be 1."""
    if attn_mask is not None:
        attn_mask = attn_mask.unflatten(0, (-1, heads)) if attn_mask.ndim == 3 else attn_mask[None, None]
    if key_padding_mask is not None:
        key_padding_mask = key_padding_mask.reshape(-1, 1, 1, key_padding_mask.shape[-1])
    bias, padding = (mask_to_bias(mask, dtype, visible=False) for mask in (attn_mask, key_padding_mask))
    if bias is None or padding is None:
        return padding if bias is None else bias
    return bias + padding


def _padding(nested: Tensor) -> Tensor:
    """Return the padding mask of a nested tensor."""
    lengths = torch.tensor([len(x) for x in nested.unbind()], device=nested.device)
    return torch.arange(int(lengths.max()), device=nested.device) >= lengths[:, None]
