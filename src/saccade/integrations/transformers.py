"""Attention in the models of transformers, whose `from_pretrained` builds a model from its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from saccade.attachment import Attached, Sites, attached, describe_attachments, restore_attachments
from saccade.attachment import attach as attach_to
from saccade.errors import BadData

_KEY = "saccade"  # of the configuration


def attach(model: Any, name: str, /, *, example_inputs: object, where: Any = None, **options: Any) -> Sites:
    """Insert a mechanism, as `saccade.attach`, and write it into the configuration of the model.

    `save_pretrained` and the checkpoints of `transformers.Trainer` then hold the configuration and the
    weights of the attention, from which `from_pretrained` of this module restores it.

    Args:
        model: A model of transformers, changed in place.
        name: A mechanism as `"NAME[:option=value,...]"`.
        example_inputs: The inputs of the model, as for `saccade.attach`.
        where: As for `saccade.attach`.
        **options: Further arguments of `saccade.attach` and options of the mechanism.

    Returns:
        The places.

    Raises:
        BadOption: As `saccade.attach`.

    Example:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3))
        >>> model.config = SimpleNamespace()
        >>> plan = attach(model, "se", where=["0"], example_inputs=torch.zeros(1, 3, 8, 8))
        >>> model.config.saccade[0]["path"]
        '0.attention'
    """
    plan = attach_to(model, name, example_inputs=example_inputs, where=where, **options)
    if not options.get("dry_run"):
        setattr(model.config, _KEY, describe_attachments(model))
    return plan


def from_pretrained(model_class: Any, path: str | Path, /, **options: Any) -> nn.Module:
    """Load a model as `model_class.from_pretrained` does, with the attention that `attach` wrote into it.

    Args:
        model_class: A class of transformers, or an `Auto` class.
        path: What `save_pretrained` or a trainer wrote: a folder, or a name on the hub.
        **options: Further arguments of `model_class.from_pretrained`.

    Returns:
        The model, in evaluation mode, of the class that was saved.

    Raises:
        BadData: If the configuration names no attention, or if its weights are missing.

    Example:
        >>> from transformers import ViTForImageClassification  # doctest: +SKIP
        >>> model = from_pretrained(ViTForImageClassification, "folder")  # doctest: +SKIP
    """
    import transformers

    config: Any = transformers.AutoConfig.from_pretrained(path)
    entries = getattr(config, _KEY, ())
    if not entries:
        message = f"{path}: the configuration names no attention; attach it with saccade.integrations"
        raise BadData(message, owner=str(path), option=_KEY)
    if not issubclass(model_class, transformers.PreTrainedModel):
        model_class = getattr(transformers, config.architectures[0])

    class WithAttention(model_class):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            restore_attachments(self, entries)

    WithAttention.__name__ = model_class.__name__
    model, info = WithAttention.from_pretrained(path, output_loading_info=True, **options)
    added = [a.path for a in attached(model)]
    if missing := sorted(key for key in info["missing_keys"] if key.startswith(tuple(added))):
        message = f"{path}: no weights of the attention {missing[0]!r}"
        raise BadData(message, owner=str(path), option="weights", value=missing[0])
    for part in model.modules():
        if isinstance(part, Attached):
            part.to(model.device, model.dtype)
    model.__class__ = model_class
    return model.eval()  # type: ignore[no-any-return]
