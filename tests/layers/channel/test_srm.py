"""srm equals its formula with batch and running statistics; its variance is unbiased."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal
from support.plain import BatchNorms, sigmoid

C = 6


def gate(norm: BatchNorms, p: Parameters, x: Tensor, epsilon: float = 1e-5) -> Tensor:
    styles = []
    for channel in range(C):
        z = x[:, channel].flatten(1)
        count = z.shape[1]
        mean = z.sum(1) / count
        variance = ((z - mean[:, None]) ** 2).sum(1) / (count - 1)
        w = p["weight"][channel]
        styles.append(w[0] * mean + w[1] * (variance + epsilon) ** 0.5)
    return sigmoid(norm(p, "norm", torch.stack(styles, 1)))


def plain(norm: BatchNorms, p: Parameters, x: Tensor, epsilon: float = 1e-5) -> Tensor:
    return x * gate(norm, p, x, epsilon).reshape(*x.shape[:2], *[1] * (x.ndim - 2))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
@pytest.mark.parametrize(
    "shape", [(2, C, 8, 8), (3, C, 7, 5), (2, C, 1, 2), (3, C, 9), (2, C, 3, 4, 5)], ids=str
)
def test_equals_the_formula(shape: tuple[int, ...], epsilon: float, training: bool) -> None:
    module, x = build("srm", C, epsilon=epsilon), normal(*shape)
    module(normal(4, C, 6, 6, seed=1))  # so that the running statistics are not those of the start
    norm = BatchNorms(module.train(training))
    assert_parity(module, lambda p, x: plain(norm, p, x, epsilon), x)
    if training:
        norm.assert_running()


def test_one_image_in_eval_mode_equals_the_formula() -> None:
    module = build("srm", C).eval()
    norm = BatchNorms(module)
    assert_parity(module, lambda p, x: plain(norm, p, x), normal(1, C, 7, 5))


def test_a_constant_channel_has_finite_gradients() -> None:
    """Without epsilon, the slope of the root of a variance of 0 would be infinite."""
    module, x = build("srm", C), normal(2, C, 4, 4)
    x[:, 1] = 3
    norm = BatchNorms(module)
    assert_parity(module, lambda p, x: plain(norm, p, x), x)


def test_a_channel_does_not_see_another_one() -> None:
    module, x = build("srm", C), normal(2, C, 4, 4)
    other = x.clone()
    other[:, 0] *= 7
    assert_close("other channels", module(other)[:, 1:], module(x)[:, 1:])


def test_parameters_and_buffers_are_those_of_the_authors() -> None:
    state = {name: tuple(value.shape) for name, value in sc.create("srm", C).state_dict().items()}
    assert state == {
        "weight": (C, 2),
        "norm.weight": (C,),
        "norm.bias": (C,),
        "norm.running_mean": (C,),
        "norm.running_var": (C,),
        "norm.num_batches_tracked": (),
    }


@pytest.mark.parametrize("epsilon", [0, -1e-5, float("inf")])
def test_bad_options_are_refused(epsilon: float) -> None:
    with raises(sc.BadOption, owner="srm", option="epsilon", value=epsilon):
        sc.create("srm", C, epsilon=epsilon)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C), (0, C, 4, 4), (2, C, 1, 1), (2, C, 1)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="srm", option="shape", value=shape):
        sc.create("srm", C)(torch.zeros(shape))


def test_a_batch_of_one_is_refused_in_training() -> None:
    with raises(sc.BadShape, owner="srm", option="shape", value=(1, C, 4, 4)):
        sc.create("srm", C)(torch.zeros(1, C, 4, 4))


def test_recorded_weights_are_the_gate() -> None:
    module, x = build("srm", C).eval(), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.ChannelMap)
    expected = gate(BatchNorms(module), dict(module.named_parameters()), x)
    assert_close("weights", recorded.weights, expected.detach())
