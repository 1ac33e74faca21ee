"""Checks of numerics: gradients, dtypes, memory layouts, batch independence, devices, autocast."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from saccade._torch import TorchDispatchMode, tree_leaves
from saccade.recording import record
from saccade.testing.case import Case, sweep

_EXACT = 1e-10  # for float64 results that differ only in the order of summation
_BUDGET = 16  # in units of eps of the dtype, relative to the largest output
#: Standard deviation of large activations, as those of a residual stream without a norm.
LARGE = 30
_LARGE_BUDGET = 48  # in units of eps of the dtype, of the norm of the error relative to that of the output
#: Half precision: the dtype, whether by autocast, and the scale of the loss: a scaler avoids overflow.
HALF = ((torch.bfloat16, False, 1.0), (torch.bfloat16, True, 1.0), (torch.float16, True, 2.0**-16))


@sweep("has gradients for all inputs and parameters")
def check_gradients(case: Case) -> None:
    """Every input affects the result, no input is modified, and every parameter receives a gradient."""
    module = case.build(dtype=torch.float64).train()
    inputs = case.inputs(dtype=torch.float64)
    originals = [x.clone() for x in inputs]
    case.forward(module, inputs)
    for i, (x, original) in enumerate(zip(inputs, originals, strict=True)):
        case.expect(torch.equal(x, original), f"input {i} must not be modified in place")
    _, gradients = case.forward_backward(module, inputs)
    for name, gradient in gradients.items():
        if gradient is None:
            case.fail(f"{name} must receive a gradient, it is not used")
        case.expect(bool(gradient.isfinite().all()), f"the gradient of {name} must be finite")
        if name.startswith("input "):
            case.expect(bool(gradient.any()), f"{name} must matter: its gradient is 0 everywhere")


@sweep("lets the next layer change its output in place")
def check_changed_output(case: Case) -> None:
    """The output of a drop-in may be changed in place, as `nn.ReLU(inplace=True)` and `x += shortcut` do."""
    if not case.spec.drop_in:
        return
    module = case.build(dtype=torch.float64).train()
    inputs = [x.requires_grad_() for x in case.inputs(dtype=torch.float64)]
    (output,) = case.results(module, inputs)
    output.mul_(2).sum().backward()


@sweep("has gradients equal to finite differences")
def check_gradcheck(case: Case) -> None:
    """Gradients of inputs and parameters in float64 equal finite differences.

    Hard mechanisms are skipped: the gradient of a sampled choice is an estimate or that of an expectation.
    """
    if case.spec.selection == "hard":
        return
    module = case.build(dtype=torch.float64).eval()
    parameters = dict(module.named_parameters())
    inputs = case.inputs(dtype=torch.float64, H=3, W=2, T=2, L=4, Q=3, K=2)

    def function(*tensors: Tensor) -> Any:
        values = dict(zip(parameters, tensors[len(inputs) :], strict=True))
        return torch.func.functional_call(module, values, tensors[: len(inputs)])

    leaves = [x.detach().clone().requires_grad_() for x in (*inputs, *parameters.values())]
    torch.autograd.gradcheck(function, leaves, fast_mode=True)


@sweep("runs in every floating dtype")
def check_dtypes(case: Case) -> None:
    """The output has the dtype of the input and is close to the float64 result for the same values."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        module = case.build(dtype=dtype).eval()
        inputs = case.inputs(dtype=dtype)
        try:
            output = case.forward(module, inputs)
        except RuntimeError as error:
            if dtype is torch.float16 and "not implemented for 'Half'" in str(error):
                continue  # this version of PyTorch supports the operation on GPUs only
            raise
        case.expect(output.dtype is dtype, f"expected a result of {dtype}, got {output.dtype}")
        reference = case.forward(copy.deepcopy(module).double(), [x.double() for x in inputs])
        tolerance = max(_BUDGET * torch.finfo(dtype).eps, _EXACT)
        case.expect_equal(f"the result in {dtype} against float64", output, reference, tolerance)


@sweep("takes inputs of any memory layout")
def check_layouts(case: Case) -> None:
    """Channels-last inputs and modules give the same results and gradients as contiguous ones."""
    module = case.build(dtype=torch.float64).eval()
    inputs = case.inputs(dtype=torch.float64)
    expected, gradients = case.forward_backward(module, inputs)
    channels_last = copy.deepcopy(module)
    for parameter in channels_last.parameters():
        if parameter.ndim in (4, 5):  # `Module.to` handles only one layout, of images or of volumes
            parameter.data = _last(parameter.data)
    for what, twin in (("a plain module", module), ("a channels-last module", channels_last)):
        output, twin_gradients = case.forward_backward(twin, [_last(x) for x in inputs])
        case.expect_equal(f"channels-last input, {what}", output, expected, _EXACT)
        case.expect_gradients(f"channels-last, {what}", twin_gradients, gradients, _EXACT)


def _last(x: Tensor) -> Tensor:
    """Return the same values in channels-last layout, for any number of axes."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


@sweep("processes the images of a batch independently in eval mode")
def check_batch_independence(case: Case) -> None:
    """A batch gives the results of its single images, and NaN in one image affects no other image.

    A hard mechanism draws other samples for a single image, so only NaN is checked.
    """
    module = case.build(dtype=torch.float64).eval()
    inputs = case.inputs(dtype=torch.float64, B=3)
    together = case.forward(module, inputs)
    for i in range(3 if case.spec.selection == "soft" else 0):
        alone = case.forward(module, [x[i : i + 1] for x in inputs])
        in_batch = together[i : i + 1]
        case.expect_equal(f"image {i} alone, against the same image in a batch", alone, in_batch, _EXACT)
    for x in inputs:
        x[1] = float("nan")
    with_nan = case.forward(module, inputs)
    for i in (0, 2):
        case.expect_equal(f"image {i}, beside an image of NaN", with_nan[i], together[i], _EXACT)


class _OnlyMeta(TorchDispatchMode):
    """Fails if an operation returns a tensor on another device; scalars may be on any device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.ndim and leaf.device.type != "meta":
                raise RuntimeError(f"{func} made a tensor on {leaf.device}, not on the device of the input")
        return result


@sweep("creates every tensor on the device of the input")
def check_meta(case: Case) -> None:
    """A module on the meta device runs a meta input without a tensor on another device."""
    module = case.build(device="meta")
    inputs = case.inputs(device="meta")
    with _OnlyMeta(), torch.no_grad():  # type: ignore[no-untyped-call]
        results = case.results(module, inputs)
    for part in results:
        case.expect(part.device.type == "meta", f"expected a result on meta, got one on {part.device}")
    case.expect_shapes(results, "on meta")


@sweep("runs under autocast, forward and backward, recorded and not")
def check_autocast(case: Case) -> None:
    """Under bfloat16 autocast, results are close to float32; gradients and recorded maps are finite."""
    module = case.build().eval()
    inputs = case.inputs()
    expected = case.forward(module, inputs)
    tolerance = _BUDGET * torch.finfo(torch.bfloat16).eps
    with torch.autocast("cpu", torch.bfloat16):
        output, gradients = case.forward_backward(module, inputs)
        with record(module) as maps:
            recorded = case.forward(module, inputs)
        heatmaps = [attention.heatmap() for attention in maps.values()]
    case.expect_equal("the result under autocast against float32", output, expected, tolerance)
    case.expect_equal("the recorded result under autocast", recorded, output)
    finite = (t.isfinite().all() for t in (*gradients.values(), *heatmaps) if t is not None)
    case.expect(all(finite), "gradients and heat maps must be finite under autocast")


@sweep("is finite in half precision for large activations")
def check_large_activations(case: Case) -> None:
    """At a scale of 30, half precision is finite, forward and backward, and near the float32 result.

    The error is that of the whole result: logits of attention are then so large that rounding their factors
    changes which key has the largest weight, for single queries.
    """
    for dtype, autocast, _ in HALF:
        error, is_finite = large_activation_error(case, dtype, autocast=autocast)
        what = f"{'autocast to ' if autocast else ''}{dtype} at a scale of {LARGE}"
        case.expect(is_finite, f"the result and the gradients must be finite in {what}")
        limit = _LARGE_BUDGET * torch.finfo(dtype).eps
        case.expect(error <= limit, f"{what}: expected an error of at most {limit:.1e}, got {error:.1e}")


def large_activation_error(case: Case, dtype: torch.dtype, *, autocast: bool) -> tuple[float, bool]:
    """Return the error of half precision for large activations, and whether all of it is finite.

    The error is |y - y32| / |y32|, with norms over the whole result. y32 is the float32 result for the same
    values of inputs and parameters.
    """
    (loss_scale,) = (scale for kind, cast, scale in HALF if (kind, cast) == (dtype, autocast))
    module, inputs = case.build().eval(), [LARGE * x for x in case.inputs()]
    if not autocast:
        module, inputs = module.to(dtype), [x.to(dtype) for x in inputs]
    reference = case.forward(copy.deepcopy(module).float(), [x.float() for x in inputs])
    with torch.autocast("cpu", dtype, enabled=autocast):
        output, gradients = case.forward_backward(module, inputs, loss_scale)
    tensors = (output, *(gradient for gradient in gradients.values() if gradient is not None))
    error = (output.float() - reference).norm() / reference.norm().clamp(min=torch.finfo(dtype).tiny)
    return error.item(), all(bool(t.isfinite().all()) for t in tensors)
