"""tam equals its formula, frame by frame; clips and frames are one computation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import saccade as sc
from saccade.maps import TemporalMap
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import BatchNorms, relu, sigmoid

C = 8


def convolution(weight: Tensor, z: Tensor) -> Tensor:
    size, frames = weight.shape[2], z.shape[2]
    padded = F.pad(z, [size // 2] * 2)
    taps = [torch.einsum("oc,bct->bot", weight[..., i], padded[:, :, i : i + frames]) for i in range(size)]
    return torch.stack(taps).sum(0)


def gates(norm: BatchNorms, p: Parameters, clips: Tensor) -> Tensor:
    """(B, C, T)"""
    z = clips.flatten(3).mean(3)
    hidden = relu(norm(p, "local.1", convolution(p["local.0.weight"], z)))
    return sigmoid(convolution(p["local.3.weight"], hidden))


def kernels(norm: BatchNorms, p: Parameters, clips: Tensor) -> Tensor:
    """(B, C, K)"""
    z = clips.flatten(3).mean(3).flatten(0, 1)  # one row for each clip and channel
    hidden = relu(norm(p, "kernel.1", z @ p["kernel.0.weight"].T))
    exponentials = torch.exp(hidden @ p["kernel.3.weight"].T)
    weights = exponentials / exponentials.sum(1, keepdim=True)
    return weights.reshape(*clips.shape[:2], -1)


def plain(norm: BatchNorms, p: Parameters, clips: Tensor) -> Tensor:
    gated = clips * gates(norm, p, clips)[..., None, None]
    weights, frames = kernels(norm, p, clips), clips.shape[2]
    half = weights.shape[2] // 2
    result = []
    for t in range(frames):
        seen = [s for s in range(t - half, t + half + 1) if 0 <= s < frames]
        parts = [weights[:, :, s - t + half, None, None] * gated[:, :, s] for s in seen]
        result.append(torch.stack(parts).sum(0))
    return torch.stack(result, 2)


def to_frames(clips: Tensor) -> Tensor:
    return clips.transpose(1, 2).flatten(0, 1)


SHAPES = [((2, C, 4, 6, 5), 3), ((1, C, 5, 3, 3), 5), ((3, C, 2, 1, 1), 7), ((2, C, 1, 4, 4), 3)]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("shape", "kernel_size"), SHAPES, ids=str)
def test_clips_equal_the_formula(shape: tuple[int, ...], kernel_size: int, training: bool) -> None:
    module, x = build("tam", C, frames=shape[2], kernel_size=kernel_size), normal(*shape)
    module(normal(4, *shape[1:], seed=1))  # so that the running statistics are not those of the start
    norm = BatchNorms(module.train(training))
    assert_parity(module, lambda p, x: plain(norm, p, x), x)
    if training:
        norm.assert_running()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("shape", "kernel_size"), SHAPES, ids=str)
def test_frames_equal_the_formula(shape: tuple[int, ...], kernel_size: int, training: bool) -> None:
    module = build("tam", C, frames=shape[2], kernel_size=kernel_size).train(training)
    norm = BatchNorms(module)

    def reference(p: Parameters, frames: Tensor) -> Tensor:
        clips = frames.unflatten(0, (-1, shape[2])).transpose(1, 2)
        return to_frames(plain(norm, p, clips))

    assert_parity(module, reference, to_frames(normal(*shape)))


def test_one_clip_of_one_frame_is_used_in_eval_mode() -> None:
    module, x = build("tam", C, frames=1).eval(), normal(1, C, 1, 4, 3)
    norm = BatchNorms(module)
    assert_parity(module, lambda p, x: plain(norm, p, x), x)


def test_the_kernel_is_softmaxed_over_its_offsets() -> None:
    """With gates of 1, frames that are all the same stay the same between the borders."""
    module = build("tam", C, frames=5).eval()
    with torch.no_grad():
        module.get_parameter("local.3.weight").zero_()  # gates of 1/2
    x = normal(2, C, 1, 4, 3).expand(-1, -1, 5, -1, -1)
    assert_close("inner frames", module(x)[:, :, 1:-1], x[:, :, 1:-1] / 2)


def test_channels_last_equals_contiguous_frames() -> None:
    module, x = build("tam", C, frames=4).eval(), normal(8, C, 6, 5)
    assert_close("output", module(x.to(memory_format=torch.channels_last)), module(x))


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    shapes = [tuple(p.shape) for p in sc.create("tam", 64, frames=8).parameters()]
    kernel = [(16, 8), (16,), (16,), (3, 16)]
    assert shapes == [*kernel, (16, 64, 3), (16,), (16,), (64, 16, 1)]


def test_no_tensor_is_larger_than_the_clip() -> None:
    x = torch.randn(2, C, 4, 12, 10)
    assert largest_tensor(sc.create("tam", C, frames=4), x) == x.numel()


@pytest.mark.parametrize("options", [{"frames": 0}, {"kernel_size": 4}, {"kernel_size": 0}], ids=str)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    ((option, value),) = options.items()
    with raises(sc.BadOption, owner="tam", option=option, value=value):
        sc.create("tam", C, **options)


def test_too_few_channels_are_refused() -> None:
    with raises(sc.BadOption, owner="tam", option="channels", value=3):
        sc.create("tam", 3)


@pytest.mark.parametrize(
    "shape",
    [(2, C + 1, 4, 5, 5), (2, C, 3, 5, 5), (6, C, 5, 5), (8, C + 1, 5, 5), (2, C, 4), (0, C, 4, 5, 5)],
    ids=str,
)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="tam", option="shape", value=shape):
        sc.create("tam", C, frames=4)(torch.zeros(shape))


def test_one_frame_is_refused_in_training() -> None:
    with raises(sc.BadShape, owner="tam", option="shape", value=(1, C, 1, 4, 4)):
        sc.create("tam", C, frames=1)(torch.zeros(1, C, 1, 4, 4))


@pytest.mark.parametrize("as_frames", [False, True])
def test_the_recorded_map_holds_gates_and_kernels(as_frames: bool) -> None:
    module, x = build("tam", C, frames=4).eval(), normal(2, C, 4, 6, 5)
    with sc.record(module) as maps:
        y = module(to_frames(x) if as_frames else x)
    recorded = maps[""]
    assert isinstance(recorded, TemporalMap)
    norm, p = BatchNorms(module), dict(module.named_parameters())
    assert_close("gates", recorded.gates, gates(norm, p, x).detach())
    assert_close("kernels", recorded.kernels, kernels(norm, p, x).detach())
    filtered = torch.einsum("bcts,bcshw->bcthw", recorded.weights(), x)
    assert_close("weights", filtered, (y.unflatten(0, (2, 4)).transpose(1, 2) if as_frames else y).detach())
