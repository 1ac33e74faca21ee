"""What a network and its attention go through: attach, train, fuse, convert, detach, load again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic

import saccade as sc
from saccade._torch import tree_map
from saccade.attachment.example import call_arguments, tensors_within
from support.attach_networks import Case


@dataclass(frozen=True)
class RoundTrip:
    """The outcome for one network.

    Attributes:
        places: The places that were found.
        attached: The places with attention.
        refusal: The sentence with which the default call was refused, after which unfit places were skipped.
        identical: Whether the output was the same bit for bit at initialization.
        trains: Whether gates changed in two steps.
        fused: Whether attention stayed when batch norms were folded, and the output but for rounding.
        quantized: Whether attention ran after dynamic quantization, or a warning said otherwise and it was
            repaired; None if the network itself does not run after it.
        converted: Whether attention was repaired after norms became `SyncBatchNorm`, with the same output.
        detached: Whether the original keys, and nothing else, were there after `detach`.
        reloaded: Whether a network attached anew computed the same with the saved weights.
    """

    places: int
    attached: int
    refusal: str | None
    identical: bool
    trains: bool
    fused: bool
    quantized: bool | None
    converted: bool
    detached: bool
    reloaded: bool


def round_trip(case: Case) -> RoundTrip:
    """Take a network through all steps, with CBAM by the default call."""
    torch.manual_seed(0)
    model, inputs = case.build()
    model.eval()
    for part in model.modules():
        if isinstance(part, nn.Conv2d) and part.weight.std() < 0.03:  # features of a deep network vanish
            part.reset_parameters()
    keys, before = list(model.state_dict()), outputs(model, inputs)
    refusal, attach = attach_cbam(model, inputs)
    plan = attach(model)
    attached = sc.attached(model)
    identical = same(outputs(model, inputs), before) and set(keys) <= set(model.state_dict())
    trains = train(model, inputs)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith(".attention.gate"):
                p.fill_(0.3)
    expected = outputs(model, inputs)
    fused = survives_fusion(model, inputs) or survives_fusion(model, inputs, torch.double)
    quantized = survives_quantization(model, inputs)
    model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]  # torch's drops activations of timm's
    sc.repair(model)
    converted = same(outputs(model, inputs), expected) and runs(model) == len(attached)
    weights = copy.deepcopy(model.state_dict())
    detached = len(sc.detach(model)) == len(attached) and list(model.state_dict()) == keys
    attach(model)
    model.load_state_dict(weights)
    reloaded = same(outputs(model, inputs), expected)
    return RoundTrip(
        len(plan), len(attached), refusal, identical, trains, fused, quantized, converted, detached, reloaded
    )


def attach_cbam(model: nn.Module, inputs: Any) -> tuple[str | None, Callable[[nn.Module], sc.Sites]]:
    """Return why the default call is refused, and the call that is not."""
    try:
        sc.attach(model, "cbam", example_inputs=inputs, dry_run=True)
    except sc.BadOption as error:
        return str(error), lambda model: sc.attach(model, "cbam", example_inputs=inputs, skip_unfit=True)
    return None, lambda model: sc.attach(model, "cbam", example_inputs=inputs)


def train(model: nn.Module, inputs: Any) -> bool:
    """Train two steps; return whether gates changed and all parameters are finite."""
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.enable_grad():
            computed = [y for y in outputs(model, inputs, train=True) if y.requires_grad]
            loss = torch.stack([(y * torch.randn_like(y)).mean() for y in computed]).sum()
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    gates = [p for key, p in model.named_parameters() if key.endswith(".attention.gate")]
    return any(map(torch.any, gates)) and all(bool(p.isfinite().all()) for p in model.parameters())


def survives_fusion(model: nn.Module, inputs: Any, dtype: torch.dtype = torch.float) -> bool:
    """Return whether attention stays when norms are folded, and the output but for rounding.

    In single precision, a network that selects the best queries may select others.
    """
    folded = copy.deepcopy(model).to(dtype)
    inputs = tree_map(lambda x: x.to(dtype) if torch.is_tensor(x) and x.is_floating_point() else x, inputs)
    expected = outputs(folded, inputs)
    sc.fuse(folded, inputs)
    return close(outputs(folded, inputs), expected) and runs(folded) == runs(model)


def survives_quantization(model: nn.Module, inputs: Any) -> bool | None:
    """Return whether dynamic quantization of linear layers keeps attention, or a warning and `repair` do.

    None: the network itself cannot be quantized, since it reads the weights of its layers.
    """
    bare = copy.deepcopy(model)
    sc.detach(bare)
    try:
        outputs(quantize_dynamic(bare, {nn.Linear}), inputs)
    except (AttributeError, RuntimeError, TypeError):
        return None
    quantized = quantize_dynamic(copy.deepcopy(model), {nn.Linear})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outputs(quantized, inputs)
    told = any("no longer runs" in str(warning.message) for warning in caught)
    kept = runs(quantized) == runs(model)
    sc.repair(quantized)
    return (kept or told) and runs(quantized) == runs(model)


def outputs(model: nn.Module, inputs: Any, train: bool = False) -> list[Tensor]:
    """Return the tensors that a model computes, with the same random numbers at each call."""
    args, kwargs = call_arguments(inputs)
    torch.manual_seed(3)
    with torch.set_grad_enabled(train):
        return [t for t in tensors_within(model(*args, **kwargs)) if t.is_floating_point()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True)
    )


def close(first: list[Tensor], second: list[Tensor]) -> bool:
    """Return whether tensors differ by rounding, compared with their largest value."""

    def error(a: Tensor, b: Tensor) -> float:
        a, b = a.nan_to_num(), b.nan_to_num()
        return float((a - b).abs().amax() / b.abs().amax().clamp_min(1e-12)) if b.numel() else 0.0

    shapes = [t.shape for t in first] == [t.shape for t in second]
    return shapes and all(error(a, b) < 1e-3 for a, b in zip(first, second, strict=True))


def runs(model: nn.Module) -> int:
    """Count the attached modules that a forward pass calls."""
    return sum(attachment.runs for attachment in sc.attached(model))
