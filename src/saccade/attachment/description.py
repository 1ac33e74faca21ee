"""The description of attached attention as plain values, from which it is rebuilt without a forward pass."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_type_hints

import torch
from torch import nn

from saccade.annotations import convert, describe
from saccade.attachment.guard import Notice, guard, guards
from saccade.attachment.hooks import Attached, Construction, Place, add_hook, attached_to
from saccade.attachment.presence import attached
from saccade.errors import BadOption, bad_option
from saccade.grammar import check_options
from saccade.layers.registry import create

_NAME = re.compile(r"attention(_\d+)?")  # of the child that `attach` inserts


@dataclass(frozen=True)
class _Description:
    """One attached module: its path, what `create` takes, and what `Attached` takes.

    `guarded_by` is the path of the called module around the host, which warns when the attention no longer
    runs; empty for the model itself, None if there is no guard.
    """

    path: str
    mechanism: str
    channels: int
    options: dict[str, Any]
    gate: bool
    place: Place
    move_last_axis: bool
    grid: tuple[int, ...] | None
    extra: int
    guarded_by: Any


_TYPES = get_type_hints(_Description)


def describe_attachments(model: nn.Module) -> list[dict[str, Any]]:
    """Describe everything that `attach` inserted into a model, for `restore_attachments`.

    Args:
        model: The model, which does not change.

    Returns:
        One mapping for each attached module, in the order of `attached`. Parameters are not part of it.

    Raises:
        BadOption: If attention no longer runs, or was not built by `attach`.

    Example:
        >>> import torch, saccade as sc
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3))
        >>> x = torch.randn(1, 3, 8, 8)
        >>> plan = sc.attach(model, "se", where=["0"], example_inputs=x, reduction=4)
        >>> (description,) = describe_attachments(model)
        >>> description["path"], description["mechanism"], description["options"]
        ('0.attention', 'se', {'reduction': 4})
    """
    owners = {
        child: path
        for path, owner in model.named_modules()
        for each in guards(owner)
        for child in each.expected.values()
    }
    descriptions = []
    for attachment in attached(model):
        path = attachment.path
        if not attachment.runs:
            message = f"the attention {path} no longer runs; call saccade.repair(model) first"
            raise BadOption(message, owner="describe_attachments", option="model", value=path)
        child = model.get_submodule(path)
        if not isinstance(child, Attached) or child.construction is None:
            message = f"the attention {path} was not built by saccade.attach, so that it cannot be rebuilt"
            raise BadOption(message, owner="describe_attachments", option="model", value=path)
        built = child.construction
        description = _Description(
            path,
            built.name,
            built.channels,
            dict(built.options),
            child.gate is not None,
            child.place,
            child.move_last_axis,
            child.grid,
            child.extra,
            owners.get(child),
        )
        descriptions.append(asdict(description))
    return descriptions


def restore_attachments(model: nn.Module, descriptions: Sequence[Mapping[str, Any]]) -> None:
    """Attach the attention that `describe_attachments` described, with new parameters.

    The model does not run. Values may come from a file: each is checked, and a mechanism is found by its
    name in the registry.

    Args:
        model: A model without attention, of the structure of the one that was described; changed in place.
        descriptions: The descriptions, as they are or read from JSON.

    Raises:
        BadOption: If the model has attention already, lacks a module, or a value does not fit.
        UnknownName: If a mechanism, an option or a field does not exist.

    Example:
        >>> import torch, saccade as sc
        >>> x, model = torch.randn(1, 3, 8, 8), torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3))
        >>> plan = sc.attach(model, "se", where=["0"], example_inputs=x)
        >>> other = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3))
        >>> restore_attachments(other, describe_attachments(model))
        >>> [attachment.path for attachment in sc.attached(other)]
        ['0.attention']
    """
    if present := attached(model):
        message = f"the model has attention at {present[0].path} already; detach it first"
        raise BadOption(message, owner="restore_attachments", option="model", value=present[0].path)
    notice = Notice()
    for item in descriptions:
        _restore(model, _checked(item), notice)


def _checked(item: object) -> _Description:
    """Return a description from values that may come from a file."""
    if not isinstance(item, Mapping):
        raise bad_option("attachments", "must be an object", attachment=item)
    check_options("attachments", item, _TYPES)
    values: dict[str, Any] = {}
    for name, annotation in _TYPES.items():
        if name not in item:
            raise BadOption(f"an attachment lacks {name!r}", owner="attachments", option=name)
        try:
            values[name] = convert(item[name], annotation)
        except TypeError:
            expected = f"must be {describe(annotation)}"
            raise bad_option("attachments", expected, **{name: item[name]}) from None
    if not (values["guarded_by"] is None or isinstance(values["guarded_by"], str)):
        raise bad_option("attachments", "must be a path or null", guarded_by=values["guarded_by"])
    if values["grid"] is not None:
        values["grid"] = tuple(values["grid"])
        if len(values["grid"]) not in (2, 3) or min(values["grid"]) < 1:
            raise bad_option("attachments", "must hold 2 or 3 positive integers", grid=values["grid"])
    if values["extra"] < 0:
        raise bad_option("attachments", "must not be negative", extra=values["extra"])
    return _Description(**values)


def _restore(model: nn.Module, item: _Description, notice: Notice) -> None:
    """Attach one described module."""
    host_path, _, name = item.path.rpartition(".")
    host = _submodule(model, host_path)
    inside = f"{item.guarded_by}." if item.guarded_by else ""
    if not _NAME.fullmatch(name) or (hasattr(host, name) and name not in attached_to(host)):
        raise bad_option("attachments", "is not a place for attention", path=item.path)
    if name in attached_to(host) or not item.path.startswith(inside):
        problem = "occurs twice" if name in attached_to(host) else f"is not inside {item.guarded_by!r}"
        raise bad_option("attachments", problem, path=item.path)
    with torch.random.fork_rng(devices=()):
        child = Attached(
            create(item.mechanism, item.channels, **item.options),
            gate=item.gate,
            place=item.place,
            move_last_axis=item.move_last_axis,
            grid=item.grid,
            extra=item.extra,
            construction=Construction(item.mechanism, item.channels, item.options),
        )
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is not None:
        child.to(like.device, like.dtype)
    host.add_module(name, child.train(host.training))
    add_hook(host, item.place)
    if item.guarded_by is not None:
        guard(_submodule(model, item.guarded_by), item.guarded_by, notice, item.path[len(inside) :], child)


def _submodule(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        message = f"{type(model).__name__} has no module {path!r} that could take attention"
        raise BadOption(message, owner="attachments", option="path", value=path) from error
