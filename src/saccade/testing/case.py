"""The basis of all checks: one example of one mechanism, and the sweep over all examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import torch
from torch import Tensor, nn

from saccade._torch import uncompiled
from saccade.layers.spec import SIZES, Example, Spec

SEED = 20180718


class ContractFailure(AssertionError):
    """A mechanism breaks the contract. The message names mechanism, example and expectation."""


class Check(Protocol):
    """A function that raises `ContractFailure` if a mechanism breaks the contract."""

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
        """Fail unless shapes are equal and no error exceeds `tolerance` times the largest value.

        `scale` is a lower bound of the largest value, for values that are 0 up to rounding.
        """
        if got.shape != expected.shape:
            self.fail(f"{what}: expected the shape {tuple(expected.shape)}, got {tuple(got.shape)}")
        error = (got.double() - expected.double()).abs().max().item()
        limit = tolerance * max(expected.double().abs().max().item(), scale)
        if not error <= limit:  # this form fails for NaN
            self.fail(f"{what}: expected equality within {limit:.1e}, off by {error:.1e}")

    def expect_gradients(
        self,
        what: str,
        got: Mapping[str, Tensor | None],
        expected: Mapping[str, Tensor | None],
        tolerance: float = 0.0,
    ) -> None:
        """Fail unless all gradients exist and no error exceeds `tolerance` times the largest value of all.

        A gradient can be 0 up to rounding: softmax over keys cancels the bias of the keys.
        """
        scale = max(float(gradient.abs().max()) for gradient in expected.values() if gradient is not None)
        for name, gradient in expected.items():
            other = got[name]
            if gradient is None or other is None:
                self.fail(f"{name} must receive a gradient, {what} or not")
            self.expect_equal(f"the gradient of {name}, {what}", other, gradient, tolerance, scale)

    def expect_shapes(self, results: Sequence[Tensor], where: str, **sizes: int) -> None:
        """Fail unless the parts of a result have the shapes of the example for these sizes."""
        for part, expected in zip(results, self.example.output_shapes(**sizes), strict=True):
            if part.shape != expected:
                self.fail(f"expected the shape {expected} {where}; got {tuple(part.shape)}")

    def build(
        self, channels: int = SIZES["C"], *, dtype: torch.dtype | None = None, device: str = "cpu"
    ) -> nn.Module:
        """Create the module with perturbed initial parameters. All calls give the same parameters.

        A module that is the identity at initialization, as with a gamma of 0, would hide errors.
        """
        torch.manual_seed(SEED)  # `sweep` restores the random state
        with torch.device(device):
            module = self.spec.module(channels, **self.example.options)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return module.to(dtype=dtype) if dtype is not None else module

    def inputs(
        self, *, dtype: torch.dtype | None = None, device: str = "cpu", **sizes: int
    ) -> tuple[Tensor, ...]:
        """Create the inputs. All calls give the same values."""
        generator = torch.Generator().manual_seed(SEED) if device == "cpu" else None
        return self.example.inputs(dtype=dtype, device=device, generator=generator, **sizes)

    def results(self, module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the parts of the result of one call. A hard mechanism always draws the same samples."""
        with torch.random.fork_rng(devices=(), enabled=self.spec.selection == "hard"):
            if self.spec.selection == "hard":
                torch.manual_seed(SEED)
            result: Tensor | tuple[Tensor, ...] = module(*inputs)
        return (result,) if isinstance(result, Tensor) else tuple(result)

    def forward(self, module: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
        """Return the joined result of one call without gradients."""
        with torch.no_grad():
            return _joined(self.results(module, inputs))

    def forward_backward(
        self, module: nn.Module, inputs: Sequence[Tensor], loss_scale: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        """Return the joined result, and the gradients of its fixed random projection.

        The projection is multiplied by `loss_scale`. The gradients are named after inputs and parameters,
        compiled or not; unused ones are None.
        """
        leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
        named = {f"input {i}": leaf for i, leaf in enumerate(leaves)}
        named |= dict(uncompiled(module).named_parameters())
        output = _joined(self.results(module, leaves))
        generator = torch.Generator().manual_seed(SEED)
        projection = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
        gradients = torch.autograd.grad(
            output, list(named.values()), loss_scale * projection, allow_unused=True
        )
        return output.detach(), dict(zip(named, gradients, strict=True))


def _joined(results: tuple[Tensor, ...]) -> Tensor:
    """Return a single result unchanged; concatenate the parts of a tuple to (B, N)."""
    if len(results) == 1:
        return results[0]
    return torch.cat([part.reshape(len(part), -1) for part in results], dim=1)


def sweep(promise: str) -> Callable[[Callable[[Case], None]], Check]:
    """Turn a function of one `Case` into a check that runs it on every example.

    Every exception becomes a `ContractFailure` that names the promise. The random state is restored.
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
