"""`torch.nn.MultiheadAttention`, alone or inside `torch.nn.TransformerEncoderLayer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade._torch import has_own_attention_block
from saccade.maps import PairwiseMap
from saccade.model_state import Handle
from saccade.recording.adapters.observe import Observer, Publish
from saccade.recording.adapters.tokens import AttentionSite, mask_to_bias

Mask = Tensor | None
Masks = tuple[Mask, Mask]


def observe_multihead(site: AttentionSite, publish: Publish) -> list[Handle]:
    """Observe an attention.

    The fast path of an encoder layer skips the attention module and is disabled by hooks. To keep the results
    the same bit for bit, the `forward` of the layer is observed instead.
    """

    def layer_adapter(layer: Any, inputs: Mapping[str, Any], _output: Any) -> PairwiseMap:
        x = layer.norm1.forward(inputs["src"]) if layer.norm_first else inputs["src"]
        masks = inputs.get("src_mask"), inputs.get("src_key_padding_mask")
        return multihead_map(site.module, x, x, masks, site)

    def adapter(module: Any, inputs: Mapping[str, Any], _output: Any) -> PairwiseMap:
        masks = inputs.get("attn_mask"), inputs.get("key_padding_mask")
        return multihead_map(module, inputs["query"], inputs["key"], masks, site)

    if _has_fast_path(site.parent, site.module):
        return [Observer(site.parent, layer_adapter, publish, wrap=True)]
    return [Observer(site.module, adapter, publish)]


def _has_fast_path(layer: nn.Module | None, attention: nn.Module) -> TypeGuard[nn.Module]:
    """Return whether this is an encoder layer that computes what torch defines."""
    return (
        isinstance(layer, nn.TransformerEncoderLayer)
        and layer.self_attn is attention
        and "forward" not in vars(layer)
        and type(layer).forward is nn.TransformerEncoderLayer.forward
        and not has_own_attention_block(layer)
    )


def multihead_map(module: Any, query: Tensor, key: Tensor, masks: Masks, site: AttentionSite) -> PairwiseMap:
    """Return the map of one call, from its inputs and the weights of the module."""
    attn_mask, key_padding_mask = masks
    sets = site.are_sets(query, key)
    if query.is_nested:  # the encoder removes padding this way
        lengths = torch.tensor([len(x) for x in query.unbind()], device=query.device)
        key_padding_mask = torch.arange(int(lengths.max()), device=query.device) >= lengths[:, None]
        query = key = query.to_padded_tensor(0.0)
    elif query.ndim == 2:
        query, key = query.unsqueeze(0), key.unsqueeze(0)
    elif not module.batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    heads, head_dim = module.num_heads, module.head_dim
    q, k = (x.unflatten(2, (heads, head_dim)).transpose(1, 2) for x in _project(module, query, key))
    bias = _bias(attn_mask, key_padding_mask, heads, query.dtype)
    extra = 0  # keys that are no tokens
    if module.add_zero_attn:
        k, extra = F.pad(k, (0, 0, 1, 0)), 1
    if module.bias_k is not None:  # a learned key
        learned = module.bias_k.reshape(1, heads, 1, head_dim).expand(len(k), -1, -1, -1)
        k, extra = torch.cat([learned.to(k), k], 2), extra + 1
    if bias is not None:
        bias = F.pad(bias, (extra, 0))
    return site.build_map(q, k, head_dim**-0.5, bias, more_keys=extra, sets=sets)


def _project(attention: Any, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    separate = attention.q_proj_weight, attention.k_proj_weight, None  # for keys or values of another width
    wq, wk, _ = separate if weight is None else weight.chunk(3)
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
