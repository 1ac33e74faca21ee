"""Measure the cost of a model: parameters, floating point operations, latency."""

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

from saccade._torch import TorchDispatchMode, count_whole_model, tree_leaves
from saccade.errors import bad_shape, check_positive
from saccade.model_state import gpus_of, preserve_state

#: Operations with more than 1 FLOP per element of the result, by their FLOPs.
_PER_OUTPUT = {
    # A scale and a shift, precomputed.
    2: "_native_batch_norm_legit_no_training native_batch_norm cudnn_batch_norm miopen_batch_norm",
    # Softmax: maximum, difference, exponential, sum, quotient. Norms: mean, variance, quotient, scale, shift.
    5: "_softmax _safe_softmax _log_softmax _native_batch_norm_legit native_layer_norm native_group_norm",
    # Resizing: a multiply-add for each of 2, 4, 8 or 16 neighbors.
    4: "_fused_rms_norm upsample_linear1d",
    8: "upsample_bilinear2d _upsample_bilinear2d_aa grid_sampler_2d _grid_sampler_2d_cpu_fallback",
    16: "upsample_trilinear3d grid_sampler_3d",
    32: "upsample_bicubic2d _upsample_bicubic2d_aa",
    6: "affine_grid_generator",
}

#: Operations with more than 1 FLOP per element of the first input, by their FLOPs.
_PER_INPUT = {2: "dot mv linalg_vector_norm", 3: "var std", 4: "logsumexp var_mean std_mean"}


def _by_name(table: Mapping[int, str]) -> dict[str, int]:
    return {f"aten::{name}": flops for flops, names in table.items() for name in names.split()}


PER_OUTPUT, PER_INPUT = _by_name(_PER_OUTPUT), _by_name(_PER_INPUT)

_MOVES = """
    clone copy_ _to_copy _unsafe_view _reshape_copy t_ transpose_ squeeze_ unsqueeze_ cat unsafe_split
    unsafe_split_with_sizes stack repeat roll flip im2col pixel_shuffle pixel_unshuffle channel_shuffle
    index index_select _unsafe_index index_put index_put_ gather scatter scatter_ take embedding
    masked_fill masked_fill_ masked_select nonzero constant_pad_nd reflection_pad1d reflection_pad2d
    replication_pad1d replication_pad2d tril triu upsample_nearest1d upsample_nearest2d upsample_nearest3d
    _upsample_nearest_exact2d fill_ zero_ empty_like zeros_like ones_like full_like rand_like randn_like
    new_empty new_zeros new_ones new_full bernoulli bernoulli_ uniform_ normal_ exponential_
"""

#: Operations that only move or create values. Views and factories without tensor arguments need no entry.
FREE = frozenset(f"aten::{name}" for name in _MOVES.split())


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: object) -> int:
    """Count Q K^T and the product with V."""
    return 2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _recurrent(x: Tensor, *arguments: Any) -> int:
    """Count the products with all weight matrices, the first arguments, at each step of each sequence."""
    weights = [w for w in tree_leaves(arguments[:4]) if isinstance(w, Tensor) and w.ndim == 2]
    return 2 * prod(x.shape[:-1]) * sum(w.numel() for w in weights)


#: Formulas, as functions of the arguments, for operations that PyTorch has no formula for.
FORMULAS: Mapping[str, Callable[..., int]] = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,  # older versions of PyTorch have none
    "aten::mkldnn_rnn_layer": _recurrent,
    "aten::_cudnn_rnn": _recurrent,
}


@dataclass(frozen=True)
class Cost:
    """The cost of a model.

    Attributes:
        parameters: Number of trainable parameters. Shared parameters count once.
        flops: Floating point operations of a forward pass of one example, see `flops`.
        latency_ms: Time of a forward pass of the measured batch in milliseconds, see `latency`.

    Example:
        >>> Cost(parameters=10, flops=2_000, latency_ms=0.5).flops
        2000
    """

    parameters: int
    flops: int
    latency_ms: float


def cost(model: nn.Module, example: Tensor, *, repeats: int = 20) -> Cost:
    """Measure a model on a representative batch. The model is not changed.

    Args:
        model: The model.
        example: A batch (B, ...) on the device of the model. FLOPs are counted for the first item.
        repeats: Number of timed forward passes.

    Raises:
        BadShape: The batch is empty.
        BadOption: `repeats` is not an integer of at least 1.

    Example:
        >>> import torch
        >>> measured = cost(torch.nn.Linear(8, 4), torch.zeros(16, 8))
        >>> measured.parameters, measured.flops
        (36, 64)
    """
    if example.ndim == 0 or len(example) == 0:
        raise bad_shape("cost", "expected a batch of at least one item", example)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        flops=flops(model, example[:1]),
        latency_ms=latency(model, example, repeats=repeats),
    )


def flops(model: nn.Module, *inputs: Any) -> int:
    """Count the floating point operations of one forward pass in evaluation mode.

    The count follows this convention:

        products        2 m n k, since a multiply-add counts as 2. Convolutions and attention count as
                        products; attention is 4 B heads Lq Lk D, without the softmax of a fused kernel
        softmax         5 per element
        normalization   2 per element for batch norm with known statistics, 5 for computed statistics
        interpolation   2 per element and neighbor: 8 for bilinear resizing and grid sampling
        other           1 per element of the largest input or result: sums, activations, pooling,
                        comparisons, and every operation that no table of this module names
        data movement   0: views, copies, indexing, padding, factories

    `torch.utils.flop_counter` counts the products. The model runs and is not traced, so every executed
    operation is counted. An unknown fused kernel counts as "other", unless
    `torch.utils.flop_counter.register_flop_formula` has its formula. The model is not changed.

    Args:
        model: The model.
        *inputs: The inputs of `model`.

    Example:
        >>> import torch
        >>> flops(torch.nn.Linear(8, 4), torch.zeros(1, 8))        # 2 * 8 * 4, including the bias
        64
        >>> flops(torch.nn.MaxPool2d(2), torch.zeros(1, 3, 8, 8))  # one comparison per value
        192
    """
    products = count_whole_model(FlopCounterMode(display=False))
    rest = _Rest(products)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it runs a whole transformer layer as one operation
    try:
        with preserve_state(model, inputs), rest, products:
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(products.get_total_flops()) + rest.total


def latency(model: nn.Module, *inputs: Any, repeats: int = 20, warmup: int = 3) -> float:
    """Return the median time of a forward pass in evaluation mode, in milliseconds.

    GPUs are synchronized after each pass. The model is not changed.

    Args:
        model: The model.
        *inputs: The inputs of `model`.
        repeats: Number of timed passes.
        warmup: Number of passes before them.

    Raises:
        BadOption: `repeats` or `warmup` is not an integer of at least 1.

    Example:
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
    """Counts the operations for which `FlopCounterMode`, the inner mode, has no formula."""

    def __init__(self, products: FlopCounterMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known, self.total = products.flop_registry, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket not in self.known:
            self.total += _operations(func, args, result)
        return result


def _operations(func: Any, arguments: tuple[Any, ...], result: Any) -> int:
    """Return the FLOPs of one operation, by the tables above."""
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
