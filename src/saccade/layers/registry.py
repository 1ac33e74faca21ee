"""The registry: mechanisms by name. A file is imported when its mechanism is first asked for."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable
from typing import Any, get_args

from torch import nn

from saccade import plugins
from saccade.annotations import check_annotations, check_arguments
from saccade.errors import BadOption, SaccadeError, UnknownName, bad_option, check_choice, check_positive
from saccade.grammar import check_options, merge_options
from saccade.layers.aliases import ALIASES, resolve_alias
from saccade.layers.built_in import built_in_mechanisms
from saccade.layers.spec import Domain, Spec

_GROUP = "saccade.mechanisms"
_MOST_CHANNELS = 2**20
_registered: dict[str, Spec] = {}


def mechanisms(domain: Domain | None = None) -> list[str]:
    """Return the names of all mechanisms, sorted: built-in, registered, and of installed plugins.

    Args:
        domain: Only the mechanisms of this domain. Plugins are imported to learn theirs; built-in files
            are not. A plugin that cannot be loaded is left out, with a warning.

    Raises:
        BadOption: There is no such domain.

    Example:
        >>> import saccade as sc
        >>> "cbam" in sc.mechanisms()
        True
        >>> sc.mechanisms(domain="hard")
        ['fixation', 'hard_item']
    """
    added = {*_registered, *plugins.names(_GROUP, built_in_mechanisms())}
    if domain is None:
        return sorted({*built_in_mechanisms(), *added})
    check_choice("mechanisms", "domain", domain, get_args(Domain))
    built_in = [name for name, folder in built_in_mechanisms().items() if folder == domain]
    return sorted([*built_in, *(spec.name for spec in _loadable(added) if spec.domain == domain)])


def specs() -> list[Spec]:
    """Return the specs of all mechanisms. A plugin that cannot be loaded is left out, with a warning.

    Example:
        >>> [spec.name for spec in specs() if spec.selection == "hard"]
        ['fixation', 'hard_item']
    """
    return _loadable(mechanisms())


def _loadable(names: Iterable[str]) -> list[Spec]:
    """Return the specs of mechanisms. One that cannot be loaded is left out, with a warning."""
    loaded = []
    for name in names:
        try:
            loaded.append(spec(name))
        except SaccadeError as error:
            warnings.warn(str(error), stacklevel=3)
    return loaded


def spec(name: str) -> Spec:
    """Return the spec of a mechanism, by name or alias. Its file is imported the first time.

    A built-in mechanism takes precedence over a plugin of the same name.

    Raises:
        UnknownName: There is no such mechanism. The message suggests the nearest names.
        BadOption: It belongs to a plugin that cannot be loaded, or that does not provide a `Spec`.

    Example:
        >>> import saccade as sc
        >>> sc.spec("cbam").paper.year
        2018
        >>> [option.name for option in sc.spec("se").options]
        ['reduction', 'bias', 'hidden']
    """
    check_arguments(spec, locals())
    name, _ = resolve_alias(name, {})
    if name in _registered:
        return _registered[name]
    if name in built_in_mechanisms():
        module = importlib.import_module(f"saccade.layers.{built_in_mechanisms()[name]}.{name}")
        built_in: Spec = module.SPEC
        return built_in
    if name not in plugins.names(_GROUP):
        raise UnknownName("mechanism", name, mechanisms())
    plugin = plugins.load(_GROUP, name)
    if not isinstance(plugin, Spec) or plugin.name != name:
        message = f"the entry point {name!r} of {_GROUP} must be a Spec of this name, not {plugin!r}"
        raise BadOption(message, owner=name, option=_GROUP, value=plugin)
    check_choice(name, "domain", plugin.domain, get_args(Domain))
    return plugin


def register(spec: Spec) -> None:
    """Add a mechanism to this process, so that `create`, `attach` and the contract suite know it.

    The command line, worker processes and restored runs know mechanisms of installed packages, which
    declare an entry point in the group `saccade.mechanisms`.

    Raises:
        BadOption: The name is taken, or the domain does not exist.

    Example:
        >>> import saccade as sc
        >>> sc.register(sc.spec("se"))
        Traceback (most recent call last):
        saccade.errors.BadOption: a mechanism named 'se' exists already; choose another name
    """
    check_arguments(register, locals())
    if spec.name in {*mechanisms(), *ALIASES}:
        message = f"a mechanism named {spec.name!r} exists already; choose another name"
        raise BadOption(message, owner="register", option="name", value=spec.name)
    check_choice(spec.name, "domain", spec.domain, get_args(Domain))
    _registered[spec.name] = spec


def create(name: str, channels: int, **options: Any) -> nn.Module:
    """Create a mechanism for feature maps with `channels` channels.

    Args:
        name: `NAME[:option=value,...]`, where NAME may be an alias of `saccade.layers.aliases`.
        channels: Number of channels of the features.
        **options: Further options of the mechanism.

    Raises:
        UnknownName: There is no such mechanism or option.
        BadOption: A value is out of range, or an option is given both in the text and as a keyword.

    Example:
        >>> import torch, saccade as sc
        >>> gate = sc.create("cbam", 256, reduction=16)
        >>> gate(torch.randn(2, 256, 14, 14)).shape
        torch.Size([2, 256, 14, 14])
        >>> sc.create("cbam:reduction=4", 256, spatial=False).channels
        256
    """
    check_arguments(create, {"name": name})
    name, options = resolve_alias(*merge_options(name, options))
    check_options(name, options, (option.name for option in spec(name).options))
    check_positive(name, channels=channels)
    if channels > _MOST_CHANNELS:
        raise bad_option(name, f"must be at most {_MOST_CHANNELS}", channels=channels)
    module = spec(name).module
    return module(channels, **check_annotations(name, module, options))
