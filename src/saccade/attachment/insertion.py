"""`attach`: insert attention into a model. The insertion is planned, applied and verified, or undone."""

from __future__ import annotations

import difflib
import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from saccade._torch import tree_map
from saccade.annotations import check_arguments
from saccade.attachment.guard import Notice, guard, guards, remove_guards
from saccade.attachment.hooks import Attached, attached_to, check_model, insert, is_dead, remove
from saccade.attachment.influence import without_influence
from saccade.attachment.site import KINDS, Kind, Site, Sites
from saccade.attachment.site_builder import SiteBuilder, construction
from saccade.attachment.site_detection import Candidate, SiteFinder
from saccade.attachment.trace import trace_forward
from saccade.errors import BadOption, UnknownName
from saccade.layers.registry import spec
from saccade.model_state import temporary_hooks

Where: TypeAlias = Kind | Sequence[str] | Callable[[Site], bool]


def attach(
    model: nn.Module,
    name: str,
    /,
    *,
    example_inputs: object,
    where: Where | None = None,
    identity: bool = True,
    dry_run: bool = False,
    allow_multiple: bool = False,
    skip_unfit: bool = False,
    **options: Any,
) -> Sites:
    """Insert a mechanism into a model, in place, without changing the output at initialization.

        y = x + s (A(x) - x)        s = 0 at initialization, one number for each place

    x are the features and A is the mechanism. The output of the model stays the same bit for bit, in training
    and in evaluation mode. s trains from the first step, A from the second; both one step later where the
    branch or the head of the model starts at zero. A mechanism that is itself the identity at initialization,
    such as self_attention or non_local, gets no s: a product of two zeros never trains. A spatial_transformer
    is the identity up to rounding and gets no s for the same reason. `detach` removes everything again.

    Args:
        model: The model, changed in place.
        name: A mechanism as `"NAME[:option=value,...]"`.
        example_inputs: A batch, a list of images `(C, H, W)` if the model takes one, or all inputs of the
            model: a tuple of them, or any mapping from names. The shapes are read from a pass in evaluation
            mode and without gradients; buffers, flags and the random state are restored.
        where: A kind of `Site`; or a list of module paths, in which `*`, `?` and `[]` match within one level
            (`["layer3.*.bn2"]`); or a function that returns whether to use a `Site` of `sites`. None is
            "residual", where the papers put attention, or "stage" in a network without residual branches.
        identity: False inserts the mechanism alone, with the initialization of its paper.
        dry_run: Return the plan and change nothing.
        allow_multiple: Allow more than one mechanism at a place.
        skip_unfit: Skip the places that the mechanism does not fit. They are part of the result, with the
            reason in `refused`. Places of tokens behind which the model reads the class token alone are
            skipped in any case, unless a path names them.
        **options: Further options of the mechanism.

    Returns:
        The places with their cost and `start`, which says how the output is initialized there.

    Raises:
        UnknownName: If the mechanism, an option or a module path does not exist.
        BadOption: If there is no such place; if a place cannot take attention or has it already; if the
            mechanism does not fit a place or would never train there (`identity=False`, where the features
            are zero and the mechanism passes no gradient); if the model is compiled, scripted or wrapped; or
            if the forward pass fails, with its error as the cause.

    Note:
        Each place gets a module of its own, the child `attention` of the module whose output it attends to,
        and a hook. Nothing is replaced: keys, classes and references of the model stay. The insertion is
        planned before anything is changed, and undone if anything fails. A default `reduction` that is larger
        than the number C of channels of the features becomes C // 4.

        Convert a model first, then attach, load the weights of an attached model, and compile or wrap. What
        replaces modules later (`SyncBatchNorm.convert_sync_batchnorm`, fusion by hand) can take attention
        away: the next forward pass then warns once, and `repair` restores it. `fuse` folds batch norms and
        keeps attention.

        The papers train their networks from their own initialization, but trained weights expect features of
        the scale that they were trained with. With the initialization of the papers on every branch of
        ResNet-50, the last features have 0.47 times their scale for se, 0.42 times for cbam, and 1,300 times
        for bam, whose gates exceed 1; with `identity=True` exactly 1 for all (`benchmarks/attach_scale.py`).

    Example:
        >>> import torch, saccade as sc
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU())
        >>> x = torch.randn(2, 3, 8, 8)
        >>> before = model(x)
        >>> print(sc.attach(model, "cbam", where=["0"], example_inputs=x, reduction=4))
        path  kind  features    parameters  flops  start
        0           16 x 6 x 6  ...         ...    zero gate
        >>> torch.equal(model(x), before)
        True
        >>> sc.detach(model)
        ['0.attention']
    """
    arguments: dict[str, Any] = {
        "name": name,
        "identity": identity,
        "dry_run": dry_run,
        "allow_multiple": allow_multiple,
        "skip_unfit": skip_unfit,
    }
    check_arguments(attach, arguments if isinstance(where, str) else {**arguments, "where": where})
    check_model(model, "attach", "attach to the original model, then compile or wrap it")
    builder = SiteBuilder(name, options)
    own_options = inspect.getfullargspec(attach).kwonlyargs
    if clash := [option.name for option in spec(builder.name).options if option.name in own_options]:
        message = f"{builder.name} has an option {clash[0]!r}, which attach has too; rename it to attach it"
        raise BadOption(message, owner="attach", option=clash[0])
    trace = trace_forward(model, example_inputs)
    finder = SiteFinder(trace)
    where = _default_kind(finder) if where is None else where
    candidates = _select(finder, where)
    taken = [candidate.site.path for candidate in candidates if attached_to(candidate.host, candidate.place)]
    if taken and not allow_multiple:
        message = f"{taken[0]} has attention already; detach it, or pass allow_multiple=True"
        raise BadOption(message, owner="attach", option="where", value=taken[0])
    unread = without_influence(trace, candidates, builder)
    are_named = not (isinstance(where, str) or callable(where))
    optional = {*candidates} if skip_unfit else set() if are_named else unread
    with construction():
        places = [*_plan(candidates, builder, identity, unread, optional)]
    planned = [(place, attached) for place, attached in places if attached is not None]
    if not planned:
        message = f"{places[0][0].site.refused}; it fits none of {len(places)} places"
        raise BadOption(message, owner="attach", option="where", value=where)
    if not dry_run:
        _apply(model, example_inputs, planned)
    return Sites(candidate.site for candidate, _ in places)


def _default_kind(finder: SiteFinder) -> Kind:
    kinds = {candidate.site.kind for candidate in finder.candidates()}
    return "stage" if "stage" in kinds and "residual" not in kinds else "residual"


def _select(finder: SiteFinder, where: Where) -> list[Candidate]:
    """Return the selected places in the order of the forward pass, each once.

    Raises:
        UnknownName: If no module matches a path.
        BadOption: If `where` is no kind, selects no place, or selects one that cannot take attention.
    """
    if callable(where):
        candidates = [candidate for candidate in finder.candidates() if where(candidate.site)]
        selection = "that the function `where` accepts"
    elif isinstance(where, str):
        if where not in KINDS:
            expected = f"one of {', '.join(map(repr, KINDS))}, a list of module paths or a function of a Site"
            message = f"attach: where={where!r} is not {expected}"
            raise BadOption(message, owner="attach", option="where", value=where, choices=KINDS)
        candidates = [candidate for candidate in finder.candidates() if candidate.site.kind == where]
        selection = f"of kind {where!r}"
    else:
        candidates = [candidate for pattern in where for candidate in _matching(finder, pattern)]
        selection = "in an empty list"
    if not candidates:
        counts = Counter(candidate.site.kind for candidate in finder.candidates())
        kinds = ", ".join(f"{kind} ({n})" for kind, n in counts.items()) or "no places of any kind"
        message = f"attach: there is no place {selection}; this model has {kinds}, and modules by their paths"
        raise BadOption(message, owner="attach", option="where", value=where)
    unique = {(candidate.host, candidate.place): candidate for candidate in reversed(candidates)}
    return sorted(unique.values(), key=lambda candidate: candidate.node.index)


def _matching(finder: SiteFinder, pattern: str) -> list[Candidate]:
    """Return the places of the modules whose path matches; each must be able to take attention."""
    known = [path for paths in finder.trace.paths.values() for path in paths if path]
    levels = pattern.count(".")
    matching = [path for path in known if path.count(".") == levels and fnmatchcase(path, pattern)]
    if not matching:
        near = difflib.get_close_matches(pattern, known, cutoff=0.5)
        choices = near or [path for path in known if "." not in path]
        raise UnknownName("module path", pattern, choices, owner="attach")
    return [finder.candidate_at(path) for path in matching]


def _plan(
    candidates: Collection[Candidate],
    builder: SiteBuilder,
    identity: bool,
    unread: Collection[Candidate],
    optional: Collection[Candidate],
) -> Iterator[tuple[Candidate, Attached | None]]:
    """Yield each candidate with the module to insert there, or with the reason why it is skipped.

    Raises:
        BadOption: If the mechanism does not fit a place that is not optional.
    """
    for candidate in candidates:
        try:
            if candidate in unread:
                raise builder.no_influence(candidate.site)
            yield _planned(candidate, builder, identity)
        except BadOption as error:
            if candidate not in optional:
                advice = "; skip_unfit=True skips such places" if len(candidates) > 1 else ""
                fields = {name: getattr(error, name) for name in ("owner", "option", "value", "choices")}
                raise BadOption(f"{error}{advice}", **fields) from error
            yield replace(candidate, site=replace(candidate.site, refused=str(error))), None


def _planned(candidate: Candidate, builder: SiteBuilder, identity: bool) -> tuple[Candidate, Attached]:
    """Return the candidate with the cost of its site, and the module to insert there."""
    start, _, flops = builder.measure(candidate.site)
    mechanism, layout, built = builder.build(candidate.site)
    grid = candidate.site.grid if layout == "grid" else None
    attached = Attached(
        mechanism,
        gate=identity and start == "zero gate",
        place=candidate.place,
        move_last_axis=candidate.site.channels_last == (layout != "sequence"),
        grid=grid,
        extra=candidate.site.shape[1] - prod(grid) if grid else 0,
        construction=built,
    )
    parameters = sum(p.numel() for p in attached.parameters())
    site = replace(candidate.site, parameters=parameters, flops=flops, start=start if identity else "paper")
    return replace(candidate, site=site), attached.to(candidate.node.device, candidate.node.dtype)


def _apply(model: nn.Module, example_inputs: object, plan: Sequence[tuple[Candidate, Attached]]) -> None:
    """Insert all modules and verify that a forward pass calls each once; remove them if anything fails."""
    before = {candidate.host: attached_to(candidate.host) for candidate, _ in plan}
    guards_before = [guard for module in model.modules() for guard in guards(module)]
    calls: Counter[nn.Module] = Counter()
    zeros: dict[nn.Module, Tensor] = {}  # the features that are zero for any image

    def observe(module: nn.Module, inputs: tuple[Tensor]) -> None:
        calls[module] += 1
        if not inputs[0].is_meta and not inputs[0].any():
            zeros[module] = inputs[0].new_zeros((2, *inputs[0].shape[1:]))  # batch norm needs two images

    try:
        names = [insert(candidate.host, attached) for candidate, attached in plan]
        with temporary_hooks(attached.register_forward_pre_hook(observe) for _, attached in plan):
            trace = trace_forward(model, tree_map(_without_zeros, example_inputs))
        for candidate, attached in plan:
            _verify(candidate, attached, calls[attached], zeros.get(attached))
        notice, called = Notice(), {call.path: call.module for call in trace.calls}
        for (candidate, attached), name in zip(plan, names, strict=True):
            path = f"{candidate.site.path}.{name}"
            owner = _owner(path, called)
            guard(called[owner], owner, notice, path[len(owner) :].lstrip("."), attached)
    except BaseException:
        for host, kept in before.items():
            remove(host, keep=kept)
        remove_guards(model, keep=guards_before)
        raise


def _owner(path: str, called: Collection[str]) -> str:
    """Return the path of the nearest called module around the host of attention."""
    levels = path.split(".")[:-2]
    around = [".".join(levels[:count]) for count in range(len(levels), -1, -1)]
    return next(path for path in around if path in called)


def _without_zeros(value: object) -> object:
    """Replace an image of zeros, from which a network without biases computes features of zero."""
    if isinstance(value, Tensor) and value.is_floating_point() and not value.is_meta and not value.any():
        return torch.linspace(-1, 1, value.numel(), dtype=value.dtype, device=value.device).view(value.shape)
    return value


def _verify(candidate: Candidate, attached: Attached, calls: int, zeros: Tensor | None) -> None:
    """Raise `BadOption` unless the attention runs once in a forward pass and can train."""
    path = candidate.site.path
    if calls != 1:
        cause = f"the children of {type(candidate.host).__name__} are called from outside"
        message = f"{path}: the attention runs {calls} times in a forward pass, not once, since {cause}"
        raise BadOption(message, owner="attach", option="where", value=path)
    if zeros is not None and is_dead(attached, zeros):
        name = type(attached.mechanism).__name__
        problem = f"the features are zero at initialization, where {name} passes no gradient and never trains"
        advice = "use identity=True, or another initialization of the model (timm: zero_init_last=False)"
        raise BadOption(f"{path}: {problem}; {advice}", owner="attach", option="identity", value=False)
