"""Where the Triton kernels of the gates run in tests: on a GPU, or in Triton's interpreter on the CPU."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from saccade.ops import choice, native_gates

#: The interpreter has to be chosen before Triton is imported, and so in a process of its own.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

needs_device = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(),
    reason="no GPU; test_the_kernels_in_the_interpreter runs this test in another process",
)

#: Error of a sum of a few rounded values, relative to the largest. The interpreter truncates to bfloat16.
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def allow_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow the kernels in float64 and, in the interpreter, on the CPU."""
    monkeypatch.setitem(choice._TYPES, "triton", tuple(ROUNDING))
    monkeypatch.setitem(choice._DEVICES, "triton", DEVICE)
    if INTERPRETED:
        native_gates.register_triton("cpu")


def laid_out(x: Tensor, layout: str) -> Tensor:
    """Return the same values, (B, C, P), in another layout."""
    match layout:
        case "channels last":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        case "batch last":
            return x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        case "spread":
            return torch.stack([x, x + 1], -1)[..., 0]
        case "offset":
            return torch.cat([x.flatten()[:1], x.flatten()])[1:].view_as(x)
    return x
