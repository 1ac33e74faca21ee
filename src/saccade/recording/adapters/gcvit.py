"""Window attention of the GC ViT of timm, whose global queries are the same in all windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saccade.maps import WindowMap
from saccade.model_state import Handle
from saccade.ops.windows import cut_windows
from saccade.recording.adapters.observe import Observer, Publish
from saccade.recording.adapters.swin import block_of
from saccade.recording.adapters.tokens import AttentionSite


def observe_gcvit(site: AttentionSite, publish: Publish) -> list[Handle]:
    """Observe the block around the `WindowAttentionGlobal` of timm: the block cuts the windows.

    A global query has the place where the block puts its output.

    Raises:
        BadOption: If the attention has no block around it.
    """

    def adapter(block: Any, inputs: Mapping[str, Any], _output: Any) -> WindowMap:
        attention, x = block.attn, block.norm1.forward(inputs["x"])
        size, heads = tuple(x.shape[1:3]), (attention.num_heads, attention.head_dim)
        places, _ = cut_windows(size, block.window_size, (0, 0), x.device, pad_first=False)
        parts = attention.qkv.forward(x.flatten(1, 2)[:, places]).unflatten(-1, (-1, *heads))
        parts = parts.permute(3, 0, 4, 1, 2, 5)  # (part, B, heads, windows, n, D)
        keys = parts[-2].contiguous()  # the values are last
        if attention.use_global:
            queries = inputs["q_global"].flatten(1, 2).unflatten(2, heads).transpose(1, 2)
            queries = queries.unsqueeze(2).expand_as(keys)
        else:
            queries = parts[0].contiguous()
        bias = attention.rel_pos.get_bias()[0].unsqueeze(1)
        return WindowMap(queries, keys, attention.scale, size, size, places=places, bias=bias)

    return [Observer(block_of(site), adapter, publish)]
