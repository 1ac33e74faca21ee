"""What is attached to a model: list it, restore what no longer runs, remove all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from saccade.annotations import check_arguments
from saccade.attachment.guard import guards, remove_guards
from saccade.attachment.hooks import Attached, Place, add_hook, attached_to, check_model, is_called, remove
from saccade.attachment.site import format_table
from saccade.errors import BadOption
from saccade.layers.registry import specs


@dataclass(frozen=True)
class Attachment:
    """Attention that was attached to a model.

    Attributes:
        path: Path of the attached module.
        mechanism: Name of the mechanism.
        place: Whether the input or the output of the module around it is attended to.
        gate: The present value of the gate s; None if there is no gate.
        runs: Whether a forward pass calls it. False if its host was replaced or has lost its hook.

    Example:
        >>> Attachment("conv1.attention", "se", "output", 0.0, True).runs
        True
    """

    path: str
    mechanism: str
    place: Place
    gate: float | None
    runs: bool


class Attachments(tuple[Attachment, ...]):
    """Everything that is attached to a model. `str` formats it as a table.

    Example:
        >>> print(Attachments([Attachment("conv1.attention", "se", "output", 0.25, runs=False)]))
        path             mechanism  place   gate  runs
        conv1.attention  se         output  0.25  NO
    """

    __slots__ = ()

    def __str__(self) -> str:
        rows = [
            (
                a.path,
                a.mechanism,
                a.place,
                "" if a.gate is None else f"{a.gate:.3g}",
                "yes" if a.runs else "NO",
            )
            for a in self
        ]
        return format_table([("path", "mechanism", "place", "gate", "runs"), *rows])


def attached(model: nn.Module) -> Attachments:
    """List the attention that `attach` inserted into a model, and whether a forward pass calls it.

    Args:
        model: The model, which does not change.

    Returns:
        The attached modules, also those whose host was replaced since.

    Example:
        >>> import torch, saccade as sc
        >>> model, x = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3)), torch.randn(1, 3, 8, 8)
        >>> plan = sc.attach(model, "se", where=["0"], example_inputs=x)
        >>> print(sc.attached(model))
        path         mechanism  place   gate  runs
        0.attention  se         output  0     yes
        >>> model[0] = torch.nn.Identity()
        >>> [attachment.runs for attachment in sc.attached(model)]
        [False]
    """
    check_arguments(attached, locals())
    names = {spec.module: spec.name for spec in specs()}

    def describe(path: str, child: Attached, runs: bool) -> Attachment:
        kind = type(child.mechanism)
        gate = None if child.gate is None or child.gate.is_meta else child.gate.item()
        return Attachment(path, names.get(kind, kind.__name__), child.place, gate, runs)

    present = {
        path: describe(path, child, is_called(host, child.place)) for path, host, child in _present(model)
    }
    lost = {path: describe(path, child, False) for path, _, _, child in _lost(model)}
    return Attachments({**lost, **present}.values())


def repair(model: nn.Module) -> list[str]:
    """Restore the attention that no longer runs, since its host was replaced or has lost its hook.

    The attention returns with its parameters to the module that is now at the path of its host:
    a `SyncBatchNorm`, a frozen norm, or the `Identity` that conv-bn fusion leaves.

    Args:
        model: The model, changed in place.

    Returns:
        The paths of the restored modules.

    Raises:
        BadOption: If the model is compiled, scripted or wrapped, or if there is no module at the path of a
            host. The other places are restored.

    Example:
        >>> import torch, saccade as sc
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16))
        >>> plan = sc.attach(model, "se", where=["1"], example_inputs=torch.randn(1, 3, 8, 8))
        >>> model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        >>> sc.repair(model), sc.repair(model)
        (['1.attention'], [])
    """
    check_model(model, "repair", "repair the original model")
    restored, homeless = [], []
    for path, owner, inner, child in [*_lost(model)]:
        host_path, _, name = inner.rpartition(".")
        try:
            host = owner.get_submodule(host_path)
        except AttributeError:
            homeless.append(path)
            continue
        device = next((p.device for p in owner.parameters() if not p.is_meta), torch.device("cpu"))
        if name not in attached_to(host):
            host.add_module(name, child.to(device).train(owner.training))
        add_hook(host, child.place)
        restored.append(path)
    for path, host, child in _present(model):
        if not is_called(host, child.place):
            add_hook(host, child.place)
            restored.append(path)
    for module in model.modules():
        for each in guards(module):
            each.notice.given = False
    if homeless:
        message = f"repair: there is no module that could take the attention {', '.join(homeless)} back"
        raise BadOption(message, owner="repair", option="model", value=homeless[0])
    return restored


def detach(model: nn.Module) -> list[str]:
    """Remove everything that `attach` inserted into a model, which restores the original model exactly.

    Args:
        model: The model, changed in place.

    Returns:
        The paths of the removed modules.

    Raises:
        BadOption: If the model is compiled, scripted or wrapped.

    Example:
        >>> import torch, saccade as sc
        >>> model, x = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3)), torch.randn(1, 3, 8, 8)
        >>> plan = sc.attach(model, "se", where=["0"], example_inputs=x)
        >>> sc.detach(model), sc.detach(model)
        (['0.attention'], [])
    """
    check_model(model, "detach", "call detach on the original model")
    removed = [path for path, _, _ in _present(model)]
    for module in model.modules():
        remove(module)
    remove_guards(model)
    return removed


def _present(model: nn.Module) -> Iterator[tuple[str, nn.Module, Attached]]:
    """Yield the attached modules of a model with their paths and hosts."""
    for path, host in model.named_modules():
        for name, child in attached_to(host).items():
            yield ".".join(filter(None, (path, name))), host, child


def _lost(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Attached]]:
    """Yield the attention that no longer runs: its path, the owner of its guard, its path there, itself."""
    for path, owner in model.named_modules():
        for each in guards(owner):
            for inner in each.missing(owner):
                yield ".".join(filter(None, (path, inner))), owner, inner, each.expected[inner]
