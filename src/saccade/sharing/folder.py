"""`save` and `load`: a model with its attention as a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade.annotations import check_arguments
from saccade.attachment import describe_attachments, detach, restore_attachments
from saccade.attachment.hooks import check_model
from saccade.errors import BadOption, SaccadeError, bad_run
from saccade.files import check_folder
from saccade.sharing.backbone import Backbone, difference, find_backbone, parse_backbone
from saccade.sharing.config import (
    CONFIG,
    WEIGHTS,
    ModelConfig,
    read_config,
    read_weights,
    to_bytes,
    write_model,
)

_RECIPE = "recipe.yaml"  # of the folder of a run


def save(model: nn.Module, folder: str | Path, *, backbone: str | None = "auto") -> Path:
    """Save a model with its attention as a folder, from which `load` rebuilds it.

    `config.json` describes the backbone and the attention, and `model.safetensors` holds the weights. The
    backbone is rebuilt at once and compared with the model, so that a folder that is written can be loaded.

    Args:
        model: The model, which does not change.
        folder: The folder. A model that `save` wrote there before is replaced.
        backbone: How the model was built, `SOURCE:NAME[:option=value,...]`, as `"torchvision:resnet18"`,
            `"timm:vit_tiny_patch16_224:img_size=64"` or `"saccade:SmallCNN:classes=10"`. "auto" finds out the
            name, `num_classes` and `in_chans` of a model of timm. None, and "auto" for any other model,
            save no backbone: `load` then needs an instance of the model.

    Returns:
        The folder.

    Raises:
        BadOption: If the model is not what `backbone` builds, is compiled, scripted or wrapped, has attention
            that no longer runs, or holds a value that the files cannot hold.
        UnknownName: If there is no such backbone.
        BadRun: If the folder cannot be written, or holds files of another program.

    Note:
        The mode, `requires_grad` and hooks of the user are not saved. Tied weights are stored once for each
        name, and are tied again by the backbone.

    Example:
        >>> import tempfile, timm, torch, saccade as sc
        >>> model, x = timm.create_model("resnet18", num_classes=5).eval(), torch.randn(1, 3, 64, 64)
        >>> plan = sc.attach(model, "cbam", example_inputs=x)
        >>> folder = sc.save(model, tempfile.mkdtemp())
        >>> torch.equal(sc.load(folder)(x), model(x))
        True
    """
    check_arguments(save, {"folder": folder, "backbone": backbone})
    check_model(model, "save", "save the original model")
    path = Path(folder).expanduser()
    check_folder(path)
    if (path / _RECIPE).exists():
        raise bad_run(path, "is the folder of a run, which saccade.load reads as it is", "folder", str(path))
    attachments = describe_attachments(model)
    if backbone == "auto":
        found = find_backbone(model)
    else:
        found = None if backbone is None else parse_backbone(backbone)
    if found and (where := difference(model, _build(found, attachments))):
        written = ", ".join(f"{option}={value!r}" for option, value in found.options.items())
        name = f"{found.name}:{written}" if written else found.name
        advice = "name its options as backbone='SOURCE:NAME:option=value', or pass backbone=None"
        message = f"save: {type(model).__name__} is not what {name} builds: {where}; {advice}"
        raise BadOption(message, owner="save", option="backbone", value=name)
    weights = to_bytes(model.state_dict())
    config = ModelConfig(type(model).__name__, found, attachments, hashlib.sha256(weights).hexdigest())
    write_model(path, config, weights)
    return path


def load(folder: str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """Load a model that `save` wrote, or the trained model of a run.

    Nothing in the folder is executed, and no class is imported by a name in it: backbones come from timm,
    torchvision and this package, mechanisms from the registry.

    Args:
        folder: A folder that `save` wrote, or the folder of a run.
        model: A new instance of the model, without attention, for a folder without a backbone; changed in
            place: it gets the attention and the weights.

    Returns:
        The model in evaluation mode; of a folder with a backbone or of a run, on the CPU. The model of a run
        includes its normalization: its input are pixels from 0 to 255.

    Raises:
        BadRun: If a file is missing, damaged, exchanged or foreign, or if the weights do not fit the model.
        BadOption: If `model` is needed and missing, or given for a run.

    Example:
        >>> import tempfile, torch, saccade as sc
        >>> model, x = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3)), torch.randn(1, 3, 8, 8)
        >>> plan = sc.attach(model, "se", where=["0"], example_inputs=x)
        >>> folder = sc.save(model, tempfile.mkdtemp())
        >>> loaded = sc.load(folder, model=torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3)))
        >>> torch.equal(loaded(x), model(x)), [attachment.path for attachment in sc.attached(loaded)]
        (True, ['0.attention'])
    """
    check_arguments(load, {"folder": folder})
    path = Path(folder).expanduser()
    if not path.exists():
        raise bad_run(path, "does not exist")
    if not (path / CONFIG).exists() and (path.is_file() or (path / _RECIPE).exists()):
        return _load_run(path, model)
    if not (path / CONFIG).exists():
        raise bad_run(path, f"holds neither {CONFIG} of saccade.save nor {_RECIPE} of a run")
    if model is not None:
        check_model(model, "load", "load into the original model")
    config = read_config(path / CONFIG)
    if model is None and config.backbone is None:
        message = f"{str(path)!r} names no backbone; pass a new {config.model} as model=..."
        raise BadOption(message, owner=str(path), option="model", value=None)
    weights = read_weights(path / WEIGHTS, config.sha256)
    if model is not None:
        return _load_into(model, path, config, weights)
    if config.backbone is None:
        raise bad_run(path, "names no backbone")
    try:
        with torch.device("meta"):  # a damaged configuration may name a model that exceeds the memory
            expected = _build(config.backbone, config.attachments)
    except (NotImplementedError, RuntimeError, SaccadeError):  # not all models can be built without values
        expected = None
    if expected is not None:
        _check_fit(expected, path, weights)
    try:
        rebuilt = _build(config.backbone, config.attachments)
    except Exception as error:  # libraries raise errors of any type for damaged options
        raise bad_run(path / CONFIG, f"does not describe a model: {error}") from error
    _check_fit(rebuilt, path, weights)
    return _with_weights(rebuilt, weights)


def _build(backbone: Backbone, attachments: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Build a backbone with its attention, without changing the random state."""
    with torch.random.fork_rng(devices=()):
        model = backbone.build()
        restore_attachments(model, attachments)
    return model


def _load_run(path: Path, model: nn.Module | None) -> nn.Module:
    """Restore the model of a run."""
    if model is not None:
        message = f"{str(path)!r} is a run, which builds its model itself; leave model out"
        raise BadOption(message, owner="load", option="model", value=type(model).__name__)
    from saccade.training import restore  # imports Lightning

    return restore(path)


def _load_into(model: nn.Module, path: Path, config: ModelConfig, weights: Mapping[str, Tensor]) -> nn.Module:
    """Give an instance its attention and weights, or leave it as it was."""
    try:
        restore_attachments(model, config.attachments)
    except SaccadeError as error:
        if error.owner != "restore_attachments":
            detach(model)
        raise bad_run(path / CONFIG, f"does not fit the model: {error}", error.option, error.value) from error
    try:
        _check_fit(model, path, weights)
    except SaccadeError:
        detach(model)
        raise
    return _with_weights(model, weights)


def _check_fit(model: nn.Module, path: Path, weights: Mapping[str, Tensor]) -> None:
    """Raise `BadRun` unless the weights have the names and shapes of the state of a model."""
    expected = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    for name in {**expected, **weights}:
        problem = None
        if name not in weights:
            problem = f"lacks {name!r}"
        elif name not in expected:
            problem = f"has {name!r}, which the model has not"
        elif (shape := tuple(weights[name].shape)) != expected[name]:
            problem = f"has {name!r} of shape {shape}, expected {expected[name]}"
        if problem:
            message = f"does not fit {type(model).__name__}: it {problem}"
            raise bad_run(path / WEIGHTS, message, "model", name)


def _with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return the model in evaluation mode, with the values and the dtypes of the weights."""
    floating = {x.dtype for x in weights.values() if x.is_floating_point()}
    if len(floating) == 1:
        model.to(dtype=floating.pop())  # also the buffers that are not saved
    for name, x in model.state_dict(keep_vars=True).items():
        x.data = x.data.to(weights[name].dtype)
    model.load_state_dict(dict(weights))
    return model.eval()
