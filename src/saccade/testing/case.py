"""What the checks share: one example of one mechanism, and the sweep over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import torch
from torch import Tensor, nn

from saccade.layers.spec import SIZES, Example, Spec

SEED = 20180718


class ContractFailure(AssertionError):
    """A mechanism that breaks a promise; says which mechanism, with which example, and what was expected."""


class Check(Protocol):
    """A check: silent, or a `ContractFailure`."""

    __name__: str

    def __call__(self, spec: Spec) -> None: ...


@dataclass(frozen=True)
class Case:
    """One example of one mechanism. The first axis of every input and result is the batch."""

    spec: Spec
    example: Example

    def __str__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.example.options.items())
        return f"{self.spec.name} ({self.example.shapes}{options})"

    @property
    def is_first(self) -> bool:
        return self.example is self.spec.examples[0]

    def fail(self, expected: str) -> NoReturn:
        raise ContractFailure(f"{self}: {expected}")

    def expect(self, condition: bool, expected: str) -> None:
        if not condition:
            self.fail(expected)

    def expect_equal(
        self, what: str, got: Tensor, expected: Tensor, tolerance: float = 0.0, scale: float = 0.0
    ) -> None:
        """Fail unless the shapes agree and no value is off by more than `tolerance` times the largest one.

        `scale` replaces a largest value that is smaller: of values that are 0 but for rounding.
        """
        if got.shape != expected.shape:
            self.fail(f"{what}: expected the shape {tuple(expected.shape)}, got {tuple(got.shape)}")
        error = (got.double() - expected.double()).abs().max().item()
        limit = tolerance * max(expected.double().abs().max().item(), scale)
        if not error <= limit:  # so written, NaN fails
            self.fail(f"{what}: expected equality within {limit:.1e}, off by {error:.1e}")

    def expect_shapes(self, results: Sequence[Tensor], where: str, **sizes: int) -> None:
        """Fail unless the parts of a result have the shapes that the example promises for these sizes."""
        for part, expected in zip(results, self.example.output_shapes(**sizes), strict=True):
            if part.shape != expected:
                self.fail(f"expected the shape {expected} {where}; got {tuple(part.shape)}")

    def build(
        self, channels: int = SIZES["C"], *, dtype: torch.dtype | None = None, device: str = "cpu"
    ) -> nn.Module:
        """Build the module, the same one at every call, its parameters moved away from where they start.

        A mechanism that starts as the identity (a gamma of 0) would otherwise pass with wrong insides.
        """
        torch.manual_seed(SEED)  # `sweep` restores the state of the caller
        with torch.device(device):
            module = self.spec.module(channels, **self.example.options)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return module.to(dtype=dtype) if dtype is not None else module

    def inputs(
        self, *, dtype: torch.dtype | None = None, device: str = "cpu", **sizes: int
    ) -> tuple[Tensor, ...]:
        """Return the same inputs at every call."""
        generator = torch.Generator().manual_seed(SEED) if device == "cpu" else None
        return self.example.inputs(dtype=dtype, device=device, generator=generator, **sizes)

    def results(self, module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the parts of the result of one call; a hard mechanism draws the same at every call."""
        with torch.random.fork_rng(devices=(), enabled=self.spec.selection == "hard"):
            if self.spec.selection == "hard":
                torch.manual_seed(SEED)
            result: Tensor | tuple[Tensor, ...] = module(*inputs)
        return (result,) if isinstance(result, Tensor) else tuple(result)

    def forward(self, module: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
        """Return the result of one call without gradients, as `_joined` gives it."""
        with torch.no_grad():
            return _joined(self.results(module, inputs))

    def forward_backward(
        self, module: nn.Module, inputs: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Return the result and the gradients of a fixed random projection of it, by input and parameter.

        A parameter or an input without a gradient has None.
        """
        leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
        named = {f"input {i}": leaf for i, leaf in enumerate(leaves)} | dict(module.named_parameters())
        output = _joined(self.results(module, leaves))
        generator = torch.Generator().manual_seed(SEED)
        projection = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
        gradients = torch.autograd.grad(output, list(named.values()), projection, allow_unused=True)
        return output.detach(), dict(zip(named, gradients, strict=True))


def _joined(results: tuple[Tensor, ...]) -> Tensor:
    """Return a single result as it is, and the parts of a tuple side by side, (B, numbers)."""
    if len(results) == 1:
        return results[0]
    return torch.cat([part.reshape(len(part), -1) for part in results], dim=1)


def sweep(promise: str) -> Callable[[Callable[[Case], None]], Check]:
    """Make a check of a function of one `Case`: run it on every example, from one seed.

    Whatever it raises becomes a `ContractFailure` that names the promise. The random state of the caller
    is left as it was.
    """

    def decorate(body: Callable[[Case], None]) -> Check:
        def check(spec: Spec) -> None:
            for case in (Case(spec, example) for example in spec.examples):
                try:
                    with torch.random.fork_rng(devices=()):
                        body(case)
                except ContractFailure:
                    raise
                except Exception as error:
                    case.fail(f"expected that it {promise}, got {type(error).__name__}: {error}")

        check.__name__, check.__doc__, check.__module__ = body.__name__, body.__doc__, body.__module__
        return check

    return decorate


def largest(gradients: Mapping[str, Tensor | None]) -> float:
    """Return the size of the largest gradient, by which the rounding of all others is judged.

    The bias of keys is an example of one that is 0 but for rounding: a softmax over keys cancels it.
    """
    return max(float(gradient.abs().max()) for gradient in gradients.values() if gradient is not None)
