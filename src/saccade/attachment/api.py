"""Attention into a network and out again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from saccade.attachment.attached import Attached, attached_to, is_dead, put, remove
from saccade.attachment.select import Where, chosen
from saccade.attachment.site import Site, Sites
from saccade.attachment.site_builder import SiteBuilder, building
from saccade.attachment.site_detection import Candidate, SiteFinder
from saccade.attachment.trace import arguments, trace
from saccade.errors import BadOption
from saccade.layers.registry import spec

_OWN = ("where", "example", "identity", "dry_run", "again")


def sites(model: nn.Module, example_inputs: object, name: str | None = None, /, **options: Any) -> Sites:
    """List the places of a network where attention can go, and what a mechanism would cost in each.

    The example, a batch or a tuple or dict of what the network takes, is run once, in evaluation mode, and
    every operation is looked at; the network is left as it was. What the kinds mean is told by `Site`: they
    are read from the network's own structure. "residual" is where an addition has a longer and a shorter
    side, "stem" and "stage" are told by its blocks, modules of one class with two weighted layers or more.

    name      "NAME[:option=value,...]"; with it the sites carry parameters, flops and share or, where it
              does not fit, why

    Raises `BadOption` for a compiled or scripted network, an example without a batch of images and a forward
    that fails; `UnknownName` for an unknown mechanism or option.

    >>> import torch, saccade as sc
    >>> from saccade.models import SmallCNN
    >>> model, x = SmallCNN(2), torch.zeros(1, 3, 32, 32)
    >>> print(sc.sites(model, x, "se").of("stage"))
    path        kind   features      parameters  flops  share
    stages.0.2  stage  16 x 16 x 16  49          8,273  0.58%
    stages.1.2  stage  32 x 8 x 8    162         4,386  0.31%
    stages.2.2  stage  64 x 4 x 4    580         3,140  0.22%
    """
    from saccade.profiling import flops  # its counter takes as long to load as the rest of the package

    _check_model(model, "look at the network itself")
    fitter = None if name is None else SiteBuilder(name, options)
    if fitter is None and options:
        raise BadOption(f"{min(options)}={options[min(options)]!r} is an option of a mechanism; name one")
    traced = trace(model, example_inputs)
    found = [spot.site for spot in SiteFinder(traced).spots()]
    if fitter is None:
        return Sites(found)
    per_image = flops(_Callable(model), example_inputs) / traced.image.shape[0]
    with building():
        return Sites(_priced(site, fitter, per_image) for site in found)


def attach(
    model: nn.Module,
    name: str,
    /,
    *,
    example_inputs: object,
    where: Where = "residual",
    identity: bool = True,
    dry_run: bool = False,
    allow_multiple: bool = False,
    **options: Any,
) -> Sites:
    """Put a mechanism into a network, in place, and return where it went and how it starts there.

        y = x + s (A(x) - x)        s = 0 at the start, one number for each place

    x the features, A the mechanism. So the network's output is bit for bit what it was, in both modes, and s
    trains from the first step, A from the second. A mechanism that is itself the identity at its start, such
    as self_attention or non_local, has no s: two factors of 0 would never train. A spatial_transformer is it
    but for rounding, and for the same reason goes in as it is. `detach` undoes all of it.

    The trade: the papers' networks train from their own start, but trained weights expect features of the
    scale they know. With the papers' start on every branch of ResNet-50 the last features have 0.47 times the
    scale of those without attention for se, 0.42 for cbam, and 1,300 for bam, whose gates exceed 1; with
    identity exactly 1 for all (`benchmarks/attach_scale.py`).

    Each place gets a module of its own, the child `attention` of the one whose output it attends to, and a
    hook: nothing is replaced, so keys, classes and references of the network stay. Convert a network before
    (`SyncBatchNorm.convert_sync_batchnorm` makes new modules, which lose their hooks and so the attention),
    then attach, load the weights of an attached network, and compile or wrap.

    name      "NAME[:option=value,...]"; further options of the mechanism as keywords
    where     a kind of `Site`, "residual" being the papers' place; or a list of module paths, in which *, ?
              and [] stand for parts of one level (["layer3.*.bn2"]); or a function that picks from `sites`
    example   a batch, or a tuple or dict of what the network takes, to learn the shapes from; run in
              evaluation mode, without gradients, leaving buffers, flags and the random state as they were
    identity  False for the mechanism alone, as its paper starts
    dry_run   return the plan and change nothing
    again     allow a second attention in a place that has one

    Everything is planned before anything is changed, and undone if anything fails.

    Raises `UnknownName` for an unknown mechanism, option or path; `BadOption` for a place that does not
    exist, cannot hold attention or has it already, for a mechanism that does not fit there or would never
    train there (by identity=False, where features are zero and it passes no gradient), for a network that is
    compiled, scripted or wrapped, and for one whose forward fails, from its own error.

    >>> import torch, saccade as sc
    >>> model, x = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU()), torch.randn(2, 3, 8, 8)
    >>> before = model(x)
    >>> print(sc.attach(model, "cbam", where=["0"], example_inputs=x, reduction=4))
    path  kind  features    parameters  flops  start
    0           16 x 6 x 6  ...         ...    zero gate
    >>> torch.equal(model(x), before)
    True
    >>> sc.detach(model)
    ['0.attention']
    """
    _check_model(model, "attach to the network itself, then compile or wrap it")
    fitter = SiteBuilder(name, options)
    if clash := [option for option in _OWN if option in _option_names(fitter.name)]:
        raise BadOption(
            f"{fitter.name} has an option {clash[0]!r}, which is one of attach; register it renamed"
        )
    spots = chosen(SiteFinder(trace(model, example_inputs)), where)
    for spot in spots:
        if attached_to(spot.host, spot.place) and not allow_multiple:
            raise BadOption(
                f"{spot.site.path} has attention already; detach it, or ask for more by allow_multiple=True"
            )
    with building():
        planned = [_planned(spot, fitter, identity) for spot in spots]
    if not dry_run:
        _apply(
            model,
            example_inputs,
            [(spot, attached) for spot, (_, attached) in zip(spots, planned, strict=True)],
        )
    return Sites(site for site, _ in planned)


def detach(model: nn.Module) -> list[str]:
    """Take out all that `attach` put into a network, which is then as it was before; return the paths.

    Raises `BadOption` for a compiled, scripted or wrapped network.

    >>> import torch, saccade as sc
    >>> model, x = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3)), torch.randn(1, 3, 8, 8)
    >>> plan = sc.attach(model, "se", where=["0"], example_inputs=x)
    >>> sc.detach(model), sc.detach(model)
    (['0.attention'], [])
    """
    _check_model(model, "detach from the network itself")
    hosts = [(path, module) for path, module in model.named_modules() if attached_to(module)]
    return [f"{path}.{name}" for path, host in hosts for name in remove(host)]


class _Callable(nn.Module):
    """A network as a function of an example."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, example_inputs: object) -> Any:
        args, kwargs = arguments(example_inputs)
        return self.model(*args, **kwargs)


def _check_model(model: nn.Module, advice: str) -> None:
    if not isinstance(model, nn.Module):
        raise BadOption(f"{type(model).__name__} is not an nn.Module")
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise BadOption(
            f"{name} is scripted, and its modules cannot be changed; use what it was scripted from"
        )
    if any("_orig_mod" in part._modules or part._compiled_call_impl is not None for part in model.modules()):
        raise BadOption(f"{name} is compiled, and would not see a change; {advice}")
    if isinstance(model, DistributedDataParallel):
        raise BadOption(f"{name} has listed its parameters already; {advice}")


def _unlike_zero(value: object) -> object:
    """An image of zeros, which is enough for shapes, gives features of zero in a network without biases."""
    if isinstance(value, Tensor) and value.is_floating_point() and not value.is_meta and not value.any():
        return torch.linspace(-1, 1, value.numel(), dtype=value.dtype, device=value.device).view(value.shape)
    return value


def _option_names(name: str) -> set[str]:
    return {option.name for option in spec(name).options}


def _priced(site: Site, fitter: SiteBuilder, per_image: float) -> Site:
    try:
        fit = fitter.fit(site)
    except BadOption as error:
        return replace(site, refused=str(error).removeprefix(f"{site.path}: "))
    return replace(site, parameters=fit.parameters, flops=fit.flops, share=fit.flops / per_image)


def _planned(spot: Candidate, fitter: SiteBuilder, identity: bool) -> tuple[Site, Attached]:
    fit = fitter.fit(spot.site)
    start = fit.start if identity else "paper"
    mechanism, is_map = fitter.build(spot.site)
    attached = Attached(
        mechanism,
        gate=start == "zero gate",
        place=spot.place,
        moved=spot.site.channels_last == is_map,
    )
    parameters = sum(p.numel() for p in attached.parameters())
    site = replace(spot.site, parameters=parameters, flops=fit.flops, start=start)
    return site, attached.to(spot.node.device, spot.node.dtype)


def _apply(model: nn.Module, example_inputs: object, planned: Sequence[tuple[Candidate, Attached]]) -> None:
    """Put everything in and see that a forward pass calls each once; take it out again if anything fails."""
    before = {spot.host: attached_to(spot.host) for spot, _ in planned}
    calls: Counter[nn.Module] = Counter()
    zeros: dict[nn.Module, Tensor] = {}  # the features that are zero, whatever the image

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        calls.update([module])
        if not inputs[0].is_meta and not inputs[0].any():
            zeros[module] = inputs[0].new_zeros((2, *inputs[0].shape[1:]))  # batch norm wants two

    try:
        for spot, attached in planned:
            put(spot.host, attached)
        with ExitStack() as stack:
            for _, attached in planned:
                stack.callback(attached.register_forward_pre_hook(note).remove)
            trace(model, tree_map(_unlike_zero, example_inputs))
        for spot, attached in planned:
            if calls[attached] != 1:
                raise BadOption(
                    f"{spot.site.path}: the attention runs {calls[attached]} times in a forward pass, not "
                    f"once; a {type(spot.host).__name__} whose children are run from outside cannot hold it"
                )
            if attached in zeros and is_dead(attached, zeros[attached]):
                name = type(attached.mechanism).__name__
                raise BadOption(
                    f"{spot.site.path}: the features are all zero at the start, as where a branch begins as "
                    f"zero, and {name} passes no gradient there, so neither would ever train; use "
                    "identity=True, or another start of the network (timm: zero_init_last=False)"
                )
    except BaseException:
        for host, names in before.items():
            remove(host, keep=names)
        raise
