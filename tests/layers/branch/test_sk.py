"""sk equals timm's SelectiveKernel and its formula, batch statistics and running buffers included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers.selective_kernel import SelectiveKernel
from torch import Tensor
from torch.func import functional_call

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal
from support.plain import BatchNorms, conv3x3, pointwise, relu

C = 12
SMALL = {"groups": 4, "min_dim": 5}


def formula(
    norm: BatchNorms, parameters: Parameters, x: Tensor, *, paths: int = 2, groups: int = 4
) -> Tensor:
    features = []
    for m in range(paths):
        u = conv3x3(parameters, f"convs.{m}.0", x, dilation=m + 1, groups=groups)
        features.append(relu(norm(parameters, f"convs.{m}.1", u)))
    s = torch.stack(features).sum(0).mean((2, 3))
    z = relu(norm(parameters, "reduce.1", pointwise(parameters, "reduce.0", s)))
    logits = pointwise(parameters, "select", z)
    exponentials = [logits[:, m * C : (m + 1) * C].exp() for m in range(paths)]
    total = torch.stack(exponentials).sum(0)
    weighted = [(e / total)[:, :, None, None] * u for e, u in zip(exponentials, features, strict=True)]
    return torch.stack(weighted).sum(0)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "options",
    [SMALL, {**SMALL, "paths": 1}, {**SMALL, "paths": 3}, {"groups": 1, "reduction": 2, "min_dim": 2}],
    ids=str,
)
def test_equals_the_formula(options: dict[str, Any], training: bool) -> None:
    module, x = build("sk", C, **options), normal(3, C, 7, 5)
    module(normal(4, C, 6, 6, seed=1))  # so that the running statistics are not those of the start
    norm = BatchNorms(module.train(training))
    switches = {name: options[name] for name in ("paths", "groups") if name in options}
    # With one path the softmax is 1, and nothing learns to choose.
    single = ["reduce.0.weight", "reduce.1.weight", "reduce.1.bias", "select.weight"]
    assert_parity(
        module,
        lambda p, x: formula(norm, p, x, **switches),
        x,
        vanishing=single if options.get("paths") == 1 else (),
    )
    if training:
        norm.assert_running()
    else:
        assert all(torch.equal(norm.buffers[name], now) for name, now in module.named_buffers())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("paths", [2, 3])
def test_equals_timm(paths: int, training: bool) -> None:
    kernels = [3 + 2 * m for m in range(paths)]
    theirs = SelectiveKernel(C, C, kernel_size=kernels, groups=4, rd_channels=5, split_input=False)
    theirs = theirs.double().train(training)

    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        mapped = {}
        for m in range(paths):
            mapped[f"paths.{m}.conv.weight"] = parameters[f"convs.{m}.0.weight"]
            mapped |= {f"paths.{m}.bn.{n}": parameters[f"convs.{m}.1.{n}"] for n in ("weight", "bias")}
        mapped |= {f"attn.bn.{n}": parameters[f"reduce.1.{n}"] for n in ("weight", "bias")}
        mapped["attn.fc_reduce.weight"] = parameters["reduce.0.weight"][..., None, None]
        mapped["attn.fc_select.weight"] = parameters["select.weight"][..., None, None]
        assert mapped.keys() == dict(theirs.named_parameters()).keys()
        result: Tensor = functional_call(theirs, mapped, (x,))
        return result

    module = build("sk", C, paths=paths, **SMALL).train(training)
    assert_parity(module, reference, normal(3, C, 7, 5))
    if training:
        for (name, ours), other in zip(module.named_buffers(), theirs.buffers(), strict=True):
            assert_close(name, ours.double(), other.double())


def test_the_paths_weights_sum_to_1_for_every_channel() -> None:
    module, x = build("sk", C, paths=3, **SMALL).eval(), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.BranchMap)
    assert recorded.weights.shape == (2, 3, C)
    torch.testing.assert_close(recorded.weights.sum(1), torch.ones(2, C).double())
    # The features are not negative, so the energy is what comes out.
    torch.testing.assert_close(recorded.energy, y.detach().sum(1))


@pytest.mark.parametrize(
    ("channels", "options", "hidden"),
    [(128, {}, 32), (1024, {}, 64), (64, {"reduction": 4, "min_dim": 8}, 16), (64, {"min_dim": 1}, 4)],
)
def test_the_descriptor_has_the_width_of_the_paper(
    channels: int, options: dict[str, Any], hidden: int
) -> None:
    state = sc.create("sk", channels, **options).state_dict()
    assert state["reduce.0.weight"].shape == (hidden, channels)
    assert state["select.weight"].shape == (2 * channels, hidden)
    assert state["convs.1.0.weight"].shape == (channels, channels // 32, 3, 3)
    assert [name for name in state if name.endswith("bias")] == [
        "convs.0.1.bias",
        "convs.1.1.bias",
        "reduce.1.bias",
    ]


def test_the_second_path_reaches_two_positions_far() -> None:
    module = build("sk", C, **SMALL).eval()
    x = normal(1, C, 9, 9).requires_grad_()
    for path, reach in ((0, 1), (1, 2)):
        (gradient,) = torch.autograd.grad(module.get_submodule(f"convs.{path}.0")(x)[0, :, 4, 4].sum(), x)
        touched = gradient[0].abs().sum(0).nonzero()
        assert sorted({abs(i - 4) for i in touched.flatten().tolist()}) == [0, reach]


def test_a_batch_of_one_cannot_train() -> None:
    module = sc.create("sk", 32)
    with raises(sc.BadShape, owner="sk", option="shape", value=(1, 32, 8, 8)):
        module(torch.randn(1, 32, 8, 8))
    assert module.eval()(torch.randn(1, 32, 1, 1)).shape == (1, 32, 1, 1)


@pytest.mark.parametrize(
    ("option", "value"), [("channels", 48), ("channels", 8), ("paths", 0), ("min_dim", 0), ("reduction", -1)]
)
def test_bad_options_are_refused(option: str, value: int) -> None:
    with raises(sc.BadOption, owner="sk", option=option, value=value):
        sc.create("sk", **{"channels": 32, option: value})


def test_a_split_input_needs_channels_for_each_path() -> None:
    with raises(sc.BadOption, owner="sk", option="channels", value=32):
        sc.create("sk", 32, paths=3, groups=4, split_input=True)


@pytest.mark.parametrize("shape", [(2, 33, 4, 4), (2, 10, 32), (0, 32, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="sk", option="shape", value=shape):
        sc.create("sk", 32)(torch.zeros(shape))


def test_nan_propagates() -> None:
    x = torch.full((1, 32, 4, 4), float("nan"))
    assert sc.create("sk", 32).eval()(x).isnan().all()
