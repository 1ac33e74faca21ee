"""The files of a saved model: `config.json`, which describes it, and `model.safetensors`, its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from saccade import __version__
from saccade.annotations import convert, describe, parameter_types
from saccade.errors import BadOption, SaccadeError, bad_run
from saccade.files import atomic_write, check_regular, check_schema, read_text
from saccade.sharing.backbone import Backbone, is_json

SCHEMA = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_MARKER = b'"saccade":'  # in the first lines of both files


@dataclass(frozen=True)
class ModelConfig:
    """What `config.json` says of a model.

    Attributes:
        model: Name of the class, for readers; nothing is imported by it.
        backbone: The backbone, or None if the model is not built by a name.
        attachments: The attached attention, as `describe_attachments` returns it.
        sha256: Digest of `model.safetensors`, by which a damaged or exchanged file is noticed.
    """

    model: str
    backbone: Backbone | None
    attachments: list[Any]
    sha256: str


def write_model(folder: Path, config: ModelConfig, weights: bytes) -> None:
    """Write the weights, then the configuration, which names their digest.

    Raises:
        BadRun: If a file cannot be written, or belongs to another program.
        BadOption: If an option cannot be written as JSON.
    """
    content = {"schema": SCHEMA, "saccade": __version__, **asdict(config)}
    for place in [content["backbone"], *content["attachments"]]:
        for option, value in (place or {"options": {}})["options"].items():
            if not is_json(value):
                message = f"save: the option {option}={value!r} is not a number, a text, or a list of them"
                raise BadOption(message, owner="save", option=option, value=value)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    for name in (CONFIG, WEIGHTS):  # neither is written if one belongs to another program
        check_owned(folder / name)
    with atomic_write(folder / WEIGHTS) as file:
        file.write(weights)
    with atomic_write(folder / CONFIG) as file:
        file.write(text.encode())


def read_config(path: Path) -> ModelConfig:
    """Read a `config.json`.

    Raises:
        BadRun: If it is missing, damaged, of another schema, or was not written by `save`.
    """
    try:
        content = json.loads(read_text(path))
    except SaccadeError:
        raise
    except (ValueError, RecursionError) as error:
        raise bad_run(path, "is not JSON") from error
    if not isinstance(content, dict) or "saccade" not in content:
        raise bad_run(path, "was not written by saccade.save")
    check_schema(path, content.get("schema"), SCHEMA)
    backbone = content.get("backbone")
    if backbone is not None:
        values = _fields(path, backbone, {"name": str, "options": dict}, "backbone")
        content["backbone"] = Backbone(values["name"], values["options"])
    types = {**parameter_types(ModelConfig), "backbone": Any}
    return ModelConfig(
        **_fields(path, content, {each.name: types[each.name] for each in fields(ModelConfig)})
    )


def read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read a file of weights. Nothing in it is executed.

    Raises:
        BadRun: If the file is missing, damaged, or not the one that was saved with its configuration.
    """
    safetensors = import_safetensors()
    try:
        check_regular(path)
        content = path.read_bytes()
    except OSError as error:
        raise bad_run(path, f"cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        problem = f"is damaged or was exchanged: it does not have the digest in {CONFIG}"
        raise bad_run(path, problem, "sha256", sha256)
    try:
        weights: dict[str, Tensor] = safetensors.load(content)
    except Exception as error:  # the digest can be forged, and the parser raises errors of its own
        raise bad_run(path, "is not a file of safetensors") from error
    return weights


def to_bytes(state: Mapping[str, Any]) -> bytes:
    """Return the weights of a model as the content of a file.

    Raises:
        BadOption: If the state holds something other than tensors with values.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.is_meta:
            kind = "a tensor without values" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            message = f"save: {name!r} in the state of the model is {kind}, not a tensor with values"
            raise BadOption(message, owner="save", option="model", value=name)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    try:
        content: bytes = import_safetensors().save(tensors, {"saccade": __version__})
    except (KeyError, ValueError) as error:
        message = f"save: safetensors cannot hold the state of the model: {error}"
        raise BadOption(message, owner="save", option="model", value=str(error)) from error
    return content


def import_safetensors() -> Any:
    """Return the module of safetensors, or raise with what to install."""
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        needed = "saccade.save and saccade.load need 'safetensors'; pip install 'saccade[vision]'"
        raise ModuleNotFoundError(needed, name="safetensors") from error
    return safetensors.torch


def check_owned(path: Path) -> None:
    """Raise `BadRun` if a file exists that `save` has not written."""
    if path.is_file():
        with path.open("rb") as file:
            beginning = file.read(4096)
        if _MARKER not in beginning:
            raise bad_run(path, "was not written by saccade.save; choose another folder")


def _fields(
    path: Path, content: object, types: Mapping[str, Any], inside: str | None = None
) -> dict[str, Any]:
    """Return the named fields of an object in a file, each of its type."""

    def fail(problem: str, name: str | None = None, value: object = None) -> NoReturn:
        raise bad_run(path, problem, name, value)

    prefix = f"{inside}." if inside else ""
    if not isinstance(content, dict):
        fail(f"has {inside}={content!r}, which is not an object", inside, content)
    values = {}
    for name, annotation in types.items():
        if name not in content:
            fail(f"lacks {prefix + name!r}", name)
        try:
            values[name] = convert(content[name], annotation)
        except TypeError:
            fail(
                f"has {prefix}{name}={content[name]!r}, which is not {describe(annotation)}",
                name,
                content[name],
            )
    return values
