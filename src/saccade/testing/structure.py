"""Checks of structure: facts of the spec, parameters, accepted and rejected inputs, serialization."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, get_args

import torch
from torch import nn

from saccade.errors import BadOption, BadShape, SaccadeError, UnknownName
from saccade.layers import registry
from saccade.layers.spec import SIZES, Domain, Spec
from saccade.maps import AttentionMap
from saccade.testing.case import Case, ContractFailure, sweep

_EVEN = {"H": 8, "W": 8}
_ODD = {"B": 3, "H": 7, "W": 5, "T": 5, "L": 9, "Q": 7, "K": 4, "h": 3}
_SINGLE = {"B": 1, "H": 6, "W": 9}
_THIN = {"H": 4, "W": 1, "T": 1, "L": 1, "Q": 1, "K": 1, "h": 1}


def check_spec(spec: Spec) -> None:
    """The facts that `create`, `attach`, `record` and the checks rely on are complete and valid."""
    known = {option.name for option in spec.options}
    facts = {
        "a name that is an identifier": spec.name.isidentifier(),
        f"a domain out of {', '.join(get_args(Domain))}": spec.domain in get_args(Domain),
        "at least one example": bool(spec.examples),
        "at least one kind of map": bool(spec.maps) and all(issubclass(m, AttentionMap) for m in spec.maps),
        "options with defaults": all(o.default is not inspect.Parameter.empty for o in spec.options),
        "examples with options of the module alone": all(known.issuperset(e.options) for e in spec.examples),
        "examples whose shapes start with B": all(
            shape.split()[0] == "B" for e in spec.examples for shape in e.shapes.split(",")
        ),
    }
    expect_facts(spec, facts)


def expect_facts(spec: Spec, facts: Mapping[str, bool]) -> None:
    """Raise `ContractFailure` for the first fact that does not hold."""
    for expected, holds in facts.items():
        if not holds:
            raise ContractFailure(f"{spec.name}: the spec must have {expected}")


@sweep("registers all parameters and runs without side effects")
def check_construction(case: Case) -> None:
    """The constructor creates and registers all parameters; a forward pass prints nothing."""
    module = case.build()
    case.expect(isinstance(repr(module), str), "repr must work")
    before = list(module.state_dict())
    registered = {id(parameter) for parameter in module.parameters()}
    for path, parameter in _reachable(module):
        case.expect(id(parameter) in registered, f"{path} must be in parameters(), not in a plain container")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        case.forward(module, case.inputs())
    case.expect(not printed.getvalue(), f"forward must print nothing, it printed {printed.getvalue()!r}")
    after = list(module.state_dict())
    case.expect(before == after, f"forward must leave the state_dict keys: {before} became {after}")


def _reachable(owner: Any, path: str = "self", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield every parameter that a module refers to, also in plain containers."""
    seen = set() if seen is None else seen
    if isinstance(owner, nn.Parameter):
        yield path, owner
    elif id(owner) not in seen:
        seen.add(id(owner))
        parts = vars(owner) if isinstance(owner, nn.Module) else owner
        if isinstance(parts, list | tuple | set | frozenset):
            parts = dict(enumerate(parts))
        for key, value in parts.items() if isinstance(parts, Mapping) else ():
            yield from _reachable(value, f"{path}.{key}", seen)


@sweep("takes maps of any size and batch")
def check_shapes(case: Case) -> None:
    """The output has the shape of the example for even, odd, non-square and thin maps and all batch sizes.

    A mechanism may raise `BadShape` for a map of width 1 and, in training, for a batch of 1; and `BadOption`
    for a number of channels (48) that an option does not divide.
    """
    for channels in (32, 64, 48):
        try:
            module = case.build(channels)
        except BadOption:
            if channels % 32:
                continue
            raise
        for extents in (_EVEN, _ODD, _SINGLE, _THIN):
            sizes = {**extents, "C": channels}
            for training in (True, False):
                module.train(training)
                inputs = case.inputs(dtype=torch.float32, device="cpu", **sizes)
                try:
                    with torch.no_grad():
                        results = case.results(module, inputs)
                except BadShape:
                    if extents is _THIN or (training and extents is _SINGLE):
                        continue
                    raise
                case.expect_shapes(results, f"with {sizes}", **sizes)


def check_bad_input(spec: Spec) -> None:
    """Invalid axes, channels and batches raise `BadShape`, invalid options `BadOption`, with the name."""
    _check_bad_shapes(spec)
    if spec.name in registry.mechanisms() and registry.spec(spec.name) is spec:
        _check_bad_options(spec)


@sweep("rejects invalid input with BadShape")
def _check_bad_shapes(case: Case) -> None:
    module = case.build()
    good = case.inputs()
    bad = {
        "no batch axis": (good[0][0], *good[1:]),
        "one axis": (good[0].flatten(), *good[1:]),
        "four axes too many": (good[0][..., None, None, None, None], *good[1:]),
        "an empty batch": case.inputs(B=0),
    }
    wrong_channels, wrong_batch = case.inputs(C=SIZES["C"] + 1), case.inputs(B=SIZES["B"] + 1)
    for i, shape in enumerate(case.example.shapes.split(",")):
        if "C" in shape.split():
            bad[f"wrong channels in input {i}"] = (*good[:i], wrong_channels[i], *good[i + 1 :])
        if len(good) > 1:
            bad[f"another batch size in input {i}"] = (*good[:i], wrong_batch[i], *good[i + 1 :])
    for what, inputs in bad.items():
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        _expect_error(case.spec, f"{case}: {what} {shapes}", BadShape, partial(case.forward, module, inputs))


def _expect_error(spec: Spec, what: str, expected: type[SaccadeError], call: Callable[[], object]) -> None:
    """Raise `ContractFailure` unless a call raises the expected error, with the name of the mechanism."""
    try:
        call()
    except Exception as error:
        if not isinstance(error, expected):
            problem = f"expected {expected.__name__}, got {type(error).__name__}: {error}"
        elif not re.search(rf"\b{re.escape(spec.name)}\b", str(error)):
            problem = f"the message must name the mechanism: {str(error)!r}"
        else:
            return
        raise ContractFailure(f"{what}: {problem}") from error
    raise ContractFailure(f"{what}: expected {expected.__name__}, but it was accepted")


def _check_bad_options(spec: Spec) -> None:
    expect = partial(_expect_error, spec)
    create = partial(registry.create, spec.name)
    expect(f"{spec.name}: an unknown option", UnknownName, partial(create, SIZES["C"], no_such_option=1))
    expect(f"{spec.name}: no channels", BadOption, partial(create, 0))
    for option in spec.options:
        if option.choices:
            wrong = {option.name: "no such choice"}
            expect(f"{spec.name}: the option {wrong}", BadOption, partial(create, SIZES["C"], **wrong))


@sweep("can be saved, copied and pickled")
def check_saving(case: Case) -> None:
    """A state_dict, a deep copy and a pickle give the same outputs, as a second pass in eval mode does."""
    module = case.build()
    case.forward(module.train(), case.inputs())  # changes running statistics from their initial values
    module.eval()
    inputs = case.inputs()
    expected = case.forward(module, inputs)
    case.expect_equal("a second pass in eval mode", case.forward(module, inputs), expected)

    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh = case.spec.module(SIZES["C"], **case.example.options)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    copies = {
        "a fresh module with the same state_dict": fresh.eval(),
        "a deep copy": copy.deepcopy(module),
        "a pickled module": pickle.loads(pickle.dumps(module)),
    }
    for what, twin in copies.items():
        case.expect_equal(what, case.forward(twin, inputs), expected)
