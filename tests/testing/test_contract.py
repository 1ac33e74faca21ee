"""The contract holds for every mechanism, and each of its checks is seen to fail."""

from __future__ import annotations

import dataclasses
import inspect
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saccade as sc
from saccade.errors import check_shape
from saccade.testing import CHECKS, ContractFailure, check_mechanism
from saccade.testing.case import Check

BY_NAME = {check.__name__: check for check in CHECKS}


#: Checks that take seconds for each example: `make test` runs them on the first one, `make soak` on all.
COMPILING = ("check_compile", "check_export")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", sc.mechanisms())
def test_contract(name: str, check: Check) -> None:
    spec = sc.spec(name)
    if check.__name__ in COMPILING:
        spec = dataclasses.replace(spec, examples=spec.examples[:1])
    check(spec)


@pytest.mark.soak
@pytest.mark.parametrize("check", COMPILING)
@pytest.mark.parametrize("name", sc.mechanisms())
def test_every_example_compiles(name: str, check: str) -> None:
    BY_NAME[check](sc.spec(name))


class Good(nn.Module):
    """A gate for each position that keeps the contract. Each class below breaks it in one way.

        y = sigma(W x + b) x

    References:
        Somebody: A paper, 2018.

    Args:
        channels: Number of channels.
        bias: Whether the convolution has a bias.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Example:
        >>> Good(32)(torch.ones(1, 32, 4, 4)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, 1, 1, bias=bias)
        self.tap = sc.Tap()

    def forward(self, x: Tensor) -> Tensor:
        self.check(x)
        gate = self.gate(x)
        if self.tap.recording:
            self.publish(gate, x)
        return self.apply_gate(x, gate)

    def check(self, x: Tensor) -> None:
        check_shape("broken", x, "B C H W", C=self.channels)

    def gate(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x))

    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * gate

    def publish(self, gate: Tensor, x: Tensor) -> None:  # noqa: ARG002
        self.tap.publish(sc.SpatialMap(gate[:, 0].detach()))


def spec_of(module: type[nn.Module]) -> sc.Spec:
    return sc.Spec(
        name="broken",
        domain="spatial",
        paper=sc.Paper("A paper", "Somebody", 2018, "https://example.org"),
        summary="one promise broken",
        module=module,
        function=gate,
        examples=(sc.Example("B C H W"), sc.Example("B C H W", {"bias": False})),
        maps=(sc.SpatialMap,),
        flow="x -> [W, b -> sigmoid | ] -> multiply -> y",
    )


def gate(x: Tensor) -> Tensor:
    """Return the weights of a gate."""
    return torch.sigmoid(x)


def test_a_mechanism_of_a_third_party_passes() -> None:
    check_mechanism(spec_of(Good), house=True)


def test_a_third_party_need_not_document_as_this_package_does() -> None:
    spec = dataclasses.replace(spec_of(Undocumented), examples=(sc.Example("B C H W"),), summary="")
    check_mechanism(spec)
    with pytest.raises(ContractFailure, match="summary"):
        check_mechanism(spec, house=True)


class Drawn(Good):
    """Keeps or drops each position at random. Returns the result and its mean log-probability.

        s ~ Bernoulli(sigma(W x + b)), y = s x

    References:
        Somebody: A paper, 2018.

    Args:
        channels: Number of channels.
        bias: Whether the convolution has a bias.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W) and (B,).

    Example:
        >>> [part.shape for part in Drawn(32)(torch.ones(1, 32, 4, 4))]
        [torch.Size([1, 32, 4, 4]), torch.Size([1])]
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        self.check(x)
        gate = self.gate(x)
        if self.tap.recording:
            self.publish(gate, x)
        noise = torch.rand(gate.shape, device=x.device, dtype=torch.float32)
        kept = noise < gate.detach()
        return x * kept, self.likely(torch.where(kept, gate, 1 - gate).log().mean((1, 2, 3)))

    def likely(self, log_probability: Tensor) -> Tensor:
        return log_probability


class DrawnOfWrongShape(Drawn):
    def likely(self, log_probability: Tensor) -> Tensor:
        return log_probability[:, None]


class DrawnFromTheClock(Drawn):
    def likely(self, log_probability: Tensor) -> Tensor:
        return log_probability * (1 + time.perf_counter_ns() % 1000)


def hard_spec_of(module: type[nn.Module]) -> sc.Spec:
    examples = (sc.Example("B C H W", output="B C H W, B"),)
    return dataclasses.replace(spec_of(module), selection="hard", examples=examples)


def test_a_hard_mechanism_that_returns_a_tuple_passes() -> None:
    check_mechanism(hard_spec_of(Drawn))


@pytest.mark.parametrize(
    ("check", "module", "message"),
    [
        ("check_shapes", DrawnOfWrongShape, r"expected the shape \(2,\) with .*got \(2, 1\)"),
        ("check_meta", DrawnOfWrongShape, r"expected the shape \(2,\) on meta"),
        ("check_saving", DrawnFromTheClock, "second pass in eval mode"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_a_broken_hard_mechanism_is_caught(check: str, module: type[nn.Module], message: str) -> None:
    with pytest.raises(ContractFailure, match=f"(?s)^broken .*{message}"):
        BY_NAME[check](hard_spec_of(module))


def test_a_hard_mechanism_must_say_so() -> None:
    soft_spec = dataclasses.replace(hard_spec_of(Drawn), selection="soft")
    with pytest.raises(ContractFailure, match="second pass in eval mode"):
        BY_NAME["check_saving"](soft_spec)


def test_checks_leave_the_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    BY_NAME["check_dtypes"](spec_of(Good))
    assert torch.equal(torch.get_rng_state(), before)


class ParameterInForward(Good):
    def gate(self, x: Tensor) -> Tensor:
        self.late = nn.Parameter(torch.ones(1, dtype=x.dtype))
        return super().gate(x) * self.late


class HiddenParameters(Good):
    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__(channels, bias)
        self.hidden = [nn.Linear(channels, channels)]


class Prints(Good):
    def gate(self, x: Tensor) -> Tensor:
        sys.stdout.write(f"{x.shape}\n")
        return super().gate(x)


class HeightForWidth(Good):
    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return (x * gate).reshape(x.shape[0], x.shape[1], x.shape[3], x.shape[2])


class SquareOnly(Good):
    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x).flatten(1).view(-1, 1, x.shape[2], x.shape[2])


class NoBatchOfOne(Good):
    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return x.squeeze(0) * gate.squeeze(0)


class BakedInChannels(Good):
    def __init__(self, channels: int, bias: bool = True) -> None:  # noqa: ARG002
        super().__init__(32, bias)


class TakesAnything(Good):
    def check(self, x: Tensor) -> None:
        pass


class AnonymousError(Good):
    def check(self, x: Tensor) -> None:
        check_shape("somebody", x, "B C H W", C=self.channels)


class RandomInEval(Good):
    def gate(self, x: Tensor) -> Tensor:
        return F.dropout(super().gate(x), 0.5, training=True)


class StateOutsideStateDict(Good):
    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__(channels, bias)
        self.factor = random.random()

    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x) * self.factor


class CannotBePickled(Good):
    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__(channels, bias)
        self.function = lambda gate: gate


class WritesToInput(Good):
    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        with torch.no_grad():
            x.clamp_(min=0)
        return x * gate


class IgnoresInput(Good):
    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return torch.ones_like(x) * gate.detach() + 0 * super().gate(x)


class IgnoresParameter(Good):
    def __init__(self, channels: int, bias: bool = True) -> None:
        super().__init__(channels, bias)
        self.spare = nn.Linear(channels, channels)


class _Doubled(torch.autograd.Function):
    """The identity, with twice its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return 2 * gradients[0]


class KeepsItsOutput(Good):
    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return torch.sigmoid(x * gate)  # its gradient is computed from the output


class WrongGradient(Good):
    def gate(self, x: Tensor) -> Tensor:
        doubled: Tensor = _Doubled.apply(super().gate(x))
        return doubled


class AlwaysFloat32(Good):
    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return (x * gate).float()


class FloatTensorInForward(Good):
    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * gate + torch.ones(1, 1, 1, 1)


class Imprecise(Good):
    def gate(self, x: Tensor) -> Tensor:
        gate = super().gate(x)
        return gate.bfloat16().float() if x.dtype is torch.float32 else gate


class ViewsItsInput(Good):
    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return x.view(len(x), -1).view(x.shape) * gate


class ReadsRawMemory(Good):
    def gate(self, x: Tensor) -> Tensor:
        dense = x.as_strided(x.shape, torch.empty(x.shape, device="meta").stride())
        return super().gate(dense)


class SoftmaxOverBatch(Good):
    def gate(self, x: Tensor) -> Tensor:
        return torch.softmax(self.conv(x), 0)


class SpreadsNaN(Good):
    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * gate + 0 * x.sum()


class CpuTensorInForward(Good):
    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * gate + torch.ones(1, 1, 1, 1, dtype=x.dtype, device="cpu").to(x.device)


class NotUnderAutocast(Good):
    def gate(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :1]).masked_scatter_(x[:, :1].isfinite(), super().gate(x))


class PublishesNothing(Good):
    def publish(self, gate: Tensor, x: Tensor) -> None:
        pass


class PublishesWrongKind(Good):
    def publish(self, gate: Tensor, x: Tensor) -> None:
        self.tap.publish(sc.ChannelMap.of(gate.detach().expand_as(x).mean((2, 3)), x))


class PublishesGraph(Good):
    def publish(self, gate: Tensor, x: Tensor) -> None:  # noqa: ARG002
        self.tap.publish(sc.SpatialMap(gate[:, 0]))


class PublishesChannelAxis(Good):
    def publish(self, gate: Tensor, x: Tensor) -> None:  # noqa: ARG002
        self.tap.publish(sc.SpatialMap(gate.detach()))


class PublishesTransposed(Good):
    def publish(self, gate: Tensor, x: Tensor) -> None:  # noqa: ARG002
        self.tap.publish(sc.SpatialMap(gate[:, 0].detach().mT))


class PublishesNaN(Good):
    def publish(self, gate: Tensor, x: Tensor) -> None:  # noqa: ARG002
        self.tap.publish(sc.SpatialMap(gate[:, 0].detach() * float("nan")))


class Pairs(Good):
    """Publishes each position's similarity with each; the classes below get the shapes wrong."""

    def publish(self, gate: Tensor, x: Tensor) -> None:  # noqa: ARG002
        tokens = x.detach().flatten(2).mT.unsqueeze(1)
        self.tap.publish(sc.PairwiseMap(tokens, tokens, 1.0, self.query_shape(x), tuple(x.shape[2:])))

    def query_shape(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape[2:])


class UnfilledPairs(Pairs):
    def query_shape(self, x: Tensor) -> tuple[int, ...]:  # noqa: ARG002
        return 3, 3


class SwappedPairs(Pairs):
    def query_shape(self, x: Tensor) -> tuple[int, ...]:
        return x.shape[3], x.shape[2]


class FlatPairs(Pairs):
    def query_shape(self, x: Tensor) -> tuple[int, ...]:
        return (x.shape[2] * x.shape[3],)


class ChangedByRecording(Good):
    def publish(self, gate: Tensor, x: Tensor) -> None:
        super().publish(gate, x)
        gate.data.mul_(1.001)


class GradientChangedByRecording(Good):
    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return x * (gate.detach() if self.tap.recording else gate)


class LeavesHook(Good):
    def publish(self, gate: Tensor, x: Tensor) -> None:
        super().publish(gate, x)
        self.conv.register_forward_hook(lambda module, args, output: None)  # noqa: ARG005


class LeavesAttribute(Good):
    def publish(self, gate: Tensor, x: Tensor) -> None:
        super().publish(gate, x)
        self.last = gate.detach()


class Overflows(Good):
    def gate(self, x: Tensor) -> Tensor:
        weights: Tensor = (4 * self.conv(x)).exp()
        return weights / (1 + weights)


class LosesLargeValues(Good):
    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return super().apply_gate(x.clamp(-20, 20) if x.dtype is torch.bfloat16 else x, gate)


class BreaksGraph(Good):
    def gate(self, x: Tensor) -> Tensor:
        gate = super().gate(x)
        return gate if gate.sum().item() > 0 else -gate


class OtherMapCompiled(Good):
    def publish(self, gate: Tensor, x: Tensor) -> None:
        super().publish(gate * 2 if torch.compiler.is_compiling() else gate, x)


class OtherValueCompiled(Good):
    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x) * (0.999 if torch.compiler.is_compiling() else 1)


class CompilesWhenRecordedAgain(Good):
    recordings = 0

    def publish(self, gate: Tensor, x: Tensor) -> None:
        self.recordings += 1
        super().publish(gate + 0.0 * self.recordings, x)


class CompilesEachCall(Good):
    calls = 0

    def gate(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().gate(x) + 0.0 * self.calls


class UnrolledBatch(Good):
    def apply_gate(self, x: Tensor, gate: Tensor) -> Tensor:
        return torch.stack([image * weights for image, weights in zip(x, gate, strict=True)])


class OtherValueExported(Good):
    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x) * (0.999 if torch.compiler.is_exporting() else 1)


BROKEN: tuple[tuple[str, type[nn.Module], str], ...] = (
    # check, mechanism, what its message says
    ("check_construction", ParameterInForward, "state_dict keys"),
    ("check_construction", HiddenParameters, r"self.hidden.0.*weight must be in parameters"),
    ("check_construction", Prints, "print nothing"),
    ("check_shapes", HeightForWidth, r"expected the shape \(3, 32, 7, 5\)"),
    ("check_shapes", SquareOnly, "any size"),
    ("check_shapes", NoBatchOfOne, r"expected the shape \(1, 32, 6, 9\)"),
    ("check_shapes", BakedInChannels, "any size"),
    ("check_bad_input", TakesAnything, "expected BadShape"),
    ("check_bad_input", AnonymousError, "must name the mechanism"),
    ("check_saving", RandomInEval, "second pass in eval mode"),
    ("check_saving", StateOutsideStateDict, "fresh module with the same state_dict"),
    ("check_saving", CannotBePickled, "saved, copied and pickled"),
    ("check_gradients", WritesToInput, "input 0 must not be modified"),
    ("check_gradients", IgnoresInput, "input 0"),
    ("check_gradients", IgnoresParameter, "spare.weight must receive a gradient"),
    ("check_changed_output", KeepsItsOutput, "modified by an inplace operation"),
    ("check_gradcheck", WrongGradient, "finite differences"),
    ("check_dtypes", AlwaysFloat32, "expected a result of torch.float64, got torch.float32"),
    ("check_dtypes", FloatTensorInForward, "expected a result of torch.bfloat16, got torch.float32"),
    ("check_dtypes", Imprecise, "against float64"),
    ("check_layouts", ViewsItsInput, "memory layout"),
    ("check_layouts", ReadsRawMemory, "channels-last input"),
    ("check_batch_independence", SoftmaxOverBatch, "image 0 alone"),
    ("check_batch_independence", SpreadsNaN, "beside an image of NaN"),
    ("check_meta", CpuTensorInForward, "made a tensor on cpu"),
    ("check_autocast", NotUnderAutocast, "under autocast"),
    ("check_large_activations", Overflows, "must be finite in torch.bfloat16 at a scale of 30"),
    ("check_large_activations", LosesLargeValues, "expected an error of at most"),
    ("check_maps", PublishesNothing, "publishes its attention maps"),
    ("check_maps", PublishesWrongKind, r"expected the maps \['SpatialMap'\].*got \['ChannelMap'\]"),
    ("check_maps", PublishesGraph, "detached"),
    ("check_maps", PublishesChannelAxis, "expected the places"),
    ("check_maps", PublishesTransposed, "axes swapped"),
    ("check_maps", PublishesNaN, r"must be in \[0, 1\]"),
    ("check_recording", PublishesNothing, "without a trace"),
    ("check_recording", ChangedByRecording, "result while recorded"),
    ("check_recording", GradientChangedByRecording, "gradient"),
    ("check_recording", LeavesHook, "no new _forward_hooks"),
    ("check_recording", LeavesAttribute, "no new attributes"),
    ("check_compile", BreaksGraph, "one graph"),
    ("check_compile", OtherValueCompiled, "compiled result"),
    ("check_compile", OtherMapCompiled, "compiled map"),
    ("check_recompiles", CompilesEachCall, "three equal calls"),
    ("check_recompiles", CompilesWhenRecordedAgain, "recording compiled"),
    ("check_recompiles", UnrolledBatch, "three batch sizes"),
    ("check_export", UnrolledBatch, "dynamic batch"),
    ("check_export", OtherValueExported, "exported result"),
)


@pytest.mark.parametrize(("check", "module", "message"), BROKEN, ids=lambda v: getattr(v, "__name__", None))
def test_broken_mechanism_is_caught(check: str, module: type[nn.Module], message: str) -> None:
    with pytest.raises(ContractFailure, match=f"(?s)^broken .*{message}"):
        BY_NAME[check](spec_of(module))


def test_pairs_must_have_the_shape_of_their_positions() -> None:
    def spec(module: type[nn.Module]) -> sc.Spec:
        return dataclasses.replace(spec_of(module), maps=(sc.PairwiseMap,))

    BY_NAME["check_maps"](spec(Pairs))
    for module, message in (
        (UnfilledPairs, "do not fill"),
        (SwappedPairs, "its queries: .* axes swapped"),
        (FlatPairs, r"its queries: expected the places \(8, 6\), got \(48,\)"),
    ):
        with pytest.raises(ContractFailure, match=message):
            BY_NAME["check_maps"](spec(module))


class Undocumented(Good):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)


Undocumented.__doc__ = "A gate."
GOOD = inspect.getdoc(Good) or ""  # Python 3.13 removes the indentation itself


def documented(old: str, new: str) -> type[nn.Module]:
    """Return `Good` with another docstring."""
    assert old in GOOD
    return type("Documented", (Good,), {"__doc__": GOOD.replace(old, new), "__module__": __name__})


def no_default(channels: int, bias: bool) -> nn.Module:
    """A gate y = g x (2018) whose option has no default."""
    return Good(channels, bias)


PAPER = spec_of(Good).paper
BAD_FACTS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"name": "not a name"}, "identifier"),
    ({"domain": "color"}, "domain"),
    ({"examples": ()}, "at least one example"),
    ({"maps": ()}, "kind of map"),
    ({"examples": (sc.Example("B C H W", {"heads": 3}),)}, "options of the module alone"),
    ({"examples": (sc.Example("C B H W"),)}, "start with B"),
    ({"module": no_default}, "defaults"),
)
BAD_DOCUMENTATION: tuple[tuple[dict[str, Any], str], ...] = (
    ({"paper": dataclasses.replace(PAPER, title="")}, "title"),
    ({"paper": dataclasses.replace(PAPER, year=0)}, "the year"),
    ({"paper": dataclasses.replace(PAPER, url="")}, "url"),
    ({"paper": dataclasses.replace(PAPER, year=1999)}, "names the year 1999"),
    ({"summary": "two\nlines"}, "one line"),
    ({"summary": ""}, "one line"),
    ({"flow": ""}, "flow"),
    ({"flow": "x -> [a"}, "flow"),
    ({"module": Undocumented, "examples": (sc.Example("B C H W"),)}, "equation"),
    ({"module": documented("y = sigma", "y: sigma")}, "equation"),
    ({"module": documented("References:", "Paper:")}, "References"),
    ({"module": documented("Args:", "Options:")}, "section Args that explains bias"),
    ({"module": documented("bias:", "offset:")}, "section Args that explains bias"),
    ({"module": documented("bias:", "offset: Of old.\n    bias:")}, "the parameter offset"),
    ({"module": documented("Shape:", "Size:")}, "Shape"),
    ({"module": documented("Example:", "Usage:")}, "Example"),
    ({"module": documented(">>>", "")}, "Example"),
)


def no_docstring(x: Tensor) -> Tensor:
    return x


def _private(x: Tensor) -> Tensor:
    """Return the input."""
    return x


def hidden() -> Callable[[Tensor], Tensor]:
    """Return a function that cannot be imported."""

    def inner(x: Tensor) -> Tensor:
        """Return the input."""
        return x

    return inner


BAD_FUNCTIONS = (
    (torch.sigmoid, "function in the file of its module"),
    (no_docstring, "documented function"),
    (_private, "public function"),
    (hidden(), "public function"),
)


@pytest.mark.parametrize(("facts", "message"), BAD_FACTS, ids=lambda v: v if isinstance(v, str) else "")
def test_bad_facts_are_caught(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractFailure, match=message):
        BY_NAME["check_spec"](dataclasses.replace(spec_of(Good), **facts))


@pytest.mark.parametrize(
    ("facts", "message"), BAD_DOCUMENTATION, ids=lambda v: v if isinstance(v, str) else ""
)
def test_bad_documentation_is_caught(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractFailure, match=message):
        BY_NAME["check_documentation"](dataclasses.replace(spec_of(Good), **facts))


@pytest.mark.parametrize(("function", "message"), BAD_FUNCTIONS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_bad_function_is_caught(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(ContractFailure, match=message):
        BY_NAME["check_location"](dataclasses.replace(spec_of(Good), function=function))


@pytest.mark.parametrize("facts", [{"name": "gate"}, {"domain": "mixed"}], ids=["name", "domain"])
def test_a_built_in_spec_must_agree_with_its_file(facts: dict[str, Any]) -> None:
    with pytest.raises(ContractFailure, match="its file and folder"):
        BY_NAME["check_location"](dataclasses.replace(sc.spec("se"), **facts))


def test_every_check_is_seen_to_fail() -> None:
    seen_to_fail = {check for check, _, _ in BROKEN} | {"check_spec", "check_documentation", "check_location"}
    assert seen_to_fail == set(BY_NAME)
