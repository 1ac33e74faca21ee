"""What a model costs: parameters, arithmetic, time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from saccade._torch import TorchDispatchMode, tree_leaves
from saccade.errors import BadShape, check_positive
from saccade.model_state import gpus_of, preserve_state

#: Operations of more than 1 for each element of their result.
PER_OUTPUT: Mapping[str, int] = {
    "aten::_softmax": 5,  # maximum, difference, exponential, sum, quotient
    "aten::_safe_softmax": 5,
    "aten::_log_softmax": 5,
    "aten::_native_batch_norm_legit_no_training": 2,  # a scale and a shift, known beforehand
    "aten::native_batch_norm": 2,
    "aten::cudnn_batch_norm": 2,
    "aten::miopen_batch_norm": 2,
    "aten::_native_batch_norm_legit": 5,  # mean, variance, quotient, scale, shift
    "aten::native_layer_norm": 5,
    "aten::native_group_norm": 5,
    "aten::_fused_rms_norm": 4,
    "aten::upsample_linear1d": 4,  # a multiply-add for each of 2, 4, 8 or 16 neighbors
    "aten::upsample_bilinear2d": 8,
    "aten::_upsample_bilinear2d_aa": 8,
    "aten::upsample_trilinear3d": 16,
    "aten::upsample_bicubic2d": 32,
    "aten::_upsample_bicubic2d_aa": 32,
    "aten::grid_sampler_2d": 8,
    "aten::_grid_sampler_2d_cpu_fallback": 8,
    "aten::grid_sampler_3d": 16,
    "aten::affine_grid_generator": 6,
}

#: Operations of more than 1 for each element of their first input.
PER_INPUT: Mapping[str, int] = {
    "aten::dot": 2,
    "aten::mv": 2,
    "aten::linalg_vector_norm": 2,
    "aten::logsumexp": 4,
    "aten::var": 3,
    "aten::std": 3,
    "aten::var_mean": 4,
    "aten::std_mean": 4,
}

_MOVES = """
    clone copy_ _to_copy _unsafe_view _reshape_copy t_ transpose_ squeeze_ unsqueeze_ cat unsafe_split
    unsafe_split_with_sizes stack repeat roll flip im2col pixel_shuffle pixel_unshuffle channel_shuffle
    index index_select _unsafe_index index_put index_put_ gather scatter scatter_ take embedding
    masked_fill masked_fill_ masked_select nonzero constant_pad_nd reflection_pad1d reflection_pad2d
    replication_pad1d replication_pad2d tril triu upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact2d fill_ zero_ empty_like zeros_like ones_like full_like rand_like randn_like
    new_empty new_zeros new_ones new_full bernoulli bernoulli_ uniform_ normal_ exponential_
"""

#: Operations that only move or make values. Views, and factories of no tensor argument, need no entry.
FREE = frozenset(f"aten::{name}" for name in _MOVES.split())


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: object) -> int:
    """Q K^T and its product with V."""
    return 2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _recurrent(x: Tensor, *arguments: Any) -> int:
    """Every weight matrix of a fused recurrent layer, its first arguments, at each step of each sequence."""
    weights = [w for w in tree_leaves(arguments[:4]) if isinstance(w, Tensor) and w.ndim == 2]
    return 2 * prod(x.shape[:-1]) * sum(w.numel() for w in weights)


#: Operations with a formula of their own, of their arguments, beside those that torch itself knows.
FORMULAS: Mapping[str, Callable[..., int]] = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,  # unknown to older torch
    "aten::mkldnn_rnn_layer": _recurrent,
    "aten::_cudnn_rnn": _recurrent,
}


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    parameters   numbers that can be trained, shared ones counted once
    flops        floating point operations of a forward pass of one example, see `flops`
    latency_ms   milliseconds of a forward pass of the batch that was given, see `latency`

    >>> Cost(parameters=10, flops=2_000, latency_ms=0.5).flops
    2000
    """

    parameters: int
    flops: int
    latency_ms: float


def cost(model: nn.Module, example: Tensor, *, repeats: int = 20) -> Cost:
    """Measure a model on a batch like those it will see. The model is left as it was.

    The batch `example` (B, ...) is on the model's device. FLOPs are those of its first item.

    Raises `BadShape` for an empty batch, `BadOption` unless `repeats` is at least 1.

    >>> import torch
    >>> measured = cost(torch.nn.Linear(8, 4), torch.zeros(16, 8))
    >>> measured.parameters, measured.flops
    (36, 64)
    """
    if example.ndim == 0 or len(example) == 0:
        raise BadShape(f"cost: the example must be a batch of at least one item, got {tuple(example.shape)}")
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        flops=flops(model, example[:1]),
        latency_ms=latency(model, example, repeats=repeats),
    )


def flops(model: nn.Module, *inputs: Any) -> int:
    """Return the floating point operations of one forward pass in evaluation mode, a convention:

        products        2 m n k: a multiply-add is 2; convolutions and attention as the products they are,
                        attention 4 B heads Lq Lk D, its softmax left out when the kernel is fused
        softmax         5 per element
        normalization   2 per element for batch norm (its statistics are known), 5 where they are computed
        interpolation   2 per element for each neighbor: 8 for bilinear resizing and sampling of a grid
        the rest        1 per element of the largest tensor among inputs and results: sums, activations,
                        pooling, comparisons, and every operation that no table of this module names
        moving data     0: views, copies, indexing, padding, factories

    Products are counted by `torch.utils.flop_counter`, which counts 0 for all else. The pass is run, not
    traced, so whatever runs is counted; an unknown fused kernel counts as "the rest", unless its formula
    was given to `torch.utils.flop_counter.register_flop_formula`. The model is left as it was.

    >>> import torch
    >>> flops(torch.nn.Linear(8, 4), torch.zeros(1, 8))        # 2 * 8 * 4, the bias included
    64
    >>> flops(torch.nn.MaxPool2d(2), torch.zeros(1, 3, 8, 8))  # one comparison per value
    192
    """
    products = FlopCounterMode(display=False)
    rest = _Rest(products)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one opaque operation for a whole transformer layer
    try:
        with preserve_state(model, inputs), rest, products:
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(products.get_total_flops()) + rest.total


def latency(model: nn.Module, *inputs: Any, repeats: int = 20, warmup: int = 3) -> float:
    """Return the median time of a forward pass in evaluation mode, in milliseconds.

    A GPU is waited for. The model is left as it was. Raises `BadOption` unless `repeats` and `warmup` are
    integers of at least 1.

    >>> import torch
    >>> latency(torch.nn.Linear(8, 4), torch.zeros(1, 8), repeats=5) > 0
    True
    """
    check_positive("latency", repeats=repeats, warmup=warmup)
    gpus = gpus_of(model, inputs)

    def once() -> float:
        start = time.perf_counter()
        model(*inputs)
        for gpu in gpus:
            torch.cuda.synchronize(gpu)
        return time.perf_counter() - start

    with preserve_state(model, inputs):
        for _ in range(warmup):
            once()
        return 1000 * statistics.median(once() for _ in range(repeats))


class _Rest(TorchDispatchMode):
    """Counts what `FlopCounterMode`, the inner mode, has no formula for."""

    def __init__(self, products: FlopCounterMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known, self.total = products.flop_registry, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket not in self.known:
            self.total += _operations(func, args, result)
        return result


def _operations(func: Any, arguments: tuple[Any, ...], result: Any) -> int:
    name = func._schema.name
    read, written = ([t for t in tree_leaves(x) if isinstance(t, Tensor)] for x in (arguments, result))
    if name in FORMULAS:
        return FORMULAS[name](*arguments)
    if not read or not written or func.is_view or name in FREE:
        return 0
    if name in PER_OUTPUT:
        return PER_OUTPUT[name] * written[0].numel()
    if name in PER_INPUT:
        return PER_INPUT[name] * read[0].numel()
    return max(t.numel() for t in (*read, *written))
