"""Task `python`: any map-style data set, by the name of its Python class."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch.utils.data import Dataset

from saccade.data.checks import SPLIT_NAMES, OnBadImage, ReadingOptions
from saccade.data.map_style import MapDataset, task_from_datasets
from saccade.data.task import Task
from saccade.errors import BadData, BadOption, UnknownName

_ROOT = "~/.cache/saccade"
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def load_python(
    name: str,
    size: int | None = None,
    val_fraction: float = 0.1,
    max_samples: int | None = None,
    seed: int = 0,
    on_bad_image: OnBadImage = "fail",
    workers: int = 1,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """Load a data set by the name of its class, for example torchvision.datasets.SVHN.

    A data set is a sequence of (image, label). The image is a PIL image, a tensor (C, H, W) or an array
    (H, W, C), of uint8 or of floats in [0, 1]. The label is an integer. The attribute `classes` or
    `class_to_idx` names the classes.

    The parameters of the class determine the splits. A class with `train` is called with True and False. A
    class with `split` is called with "train" (or "trainval"), "test" and, if it accepts one of them, "val",
    "valid", "validation" or "dev". Any other class, or one whose part is selected by `options`, is one set.
    Without test images, the validation images become the test split. Missing splits are drawn at random from
    the training images, the fraction `val_fraction` for each.

    Args:
        name: Class, as MODULE.CLASS.
        size: Height and width of the images, which are resized and center-cropped; default: the shorter side
            of the first image.
        val_fraction: Fraction of the training images that is held out for each missing split.
        max_samples: Maximum number of images per split, drawn at random.
        seed: Seed of the random split.
        on_bad_image: "fail" raises an error for an unreadable image; "skip" leaves it out and lists it in
            `skipped`.
        workers: Number of threads that read images. More than one requires a thread-safe `__getitem__`.
        options: Arguments of the class. By default, a class with a parameter `download` is called with
            download=True and root="~/.cache/saccade".

    Raises:
        BadOption: The name does not have the form MODULE.CLASS, or an argument is missing.
        UnknownName: The class or an argument does not exist.
        BadData: The data set cannot be created, or it is not a sequence of (image, label).

    Example:
        >>> small = {"image_size": (3, 16, 16), "num_classes": 3}
        >>> task = load_python("torchvision.datasets.FakeData", max_samples=20, options=small)
        >>> task.train.images.shape, task.classes
        (torch.Size([20, 3, 16, 16]), ('0', '1', '2'))
    """
    reading = ReadingOptions("python", size, val_fraction, max_samples, seed, on_bad_image, workers)
    create = import_class(name)
    known = class_parameters(create)
    arguments = {key: _expand_home(value) for key, value in (options or {}).items()}
    own = inspect.signature(load_python).parameters
    for option in arguments:
        if known is not None and option not in known:
            raise UnknownName(f"option of {name}", option, {*known, *own} - {"options"}, owner=name)
    parts = _create_parts(name, create, known or {}, arguments)
    return task_from_datasets(f"python:{name}", parts, _class_names(name, parts), reading)


def import_class(name: str) -> Callable[..., MapDataset]:
    """Import a class by its name.

    Raises:
        BadOption: The name does not have the form MODULE.CLASS.
        BadData: The module cannot be imported, or the object is not the class of a data set.
        UnknownName: The module has no such class.
    """
    module_name, dot, class_name = name.rpartition(".")
    if not dot or not all(part.isidentifier() for part in name.split(".")):
        raise BadOption.of("python", f"{name!r} does not have the form MODULE.CLASS", name=name)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # third-party code may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None:
            problem = f"{module_name!r} cannot be imported: {type(error).__name__}: {error}"
        elif f"{module_name}.".startswith(f"{missing}."):
            problem = f"there is no module {missing!r}"
        else:
            problem = f"{module_name!r} needs {missing!r}, which is not installed"
        raise BadData.of("python", problem, name=name) from error
    if not hasattr(module, class_name):
        classes = (key for key, value in vars(module).items() if inspect.isclass(value))
        raise UnknownName(f"class of {module_name}", class_name, classes, owner=module_name)
    member = getattr(module, class_name)
    if not _is_data_set(member):
        kind = "has no __getitem__ and __len__" if inspect.isclass(member) else "is no class"
        problem = f"{name!r} {kind}; the class of a data set, a sequence, is required"
        raise BadData.of("python", problem, name=name)
    return cast(Callable[..., MapDataset], member)


def _is_data_set(member: object) -> bool:
    """Return whether an object is the class of a data set. Anything else is not called: it might do harm."""
    if not inspect.isclass(member):
        return False
    return issubclass(member, Dataset) or all(hasattr(member, name) for name in ("__getitem__", "__len__"))


def class_parameters(create: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """Return the parameters of a class, with those of its bases as far as `**kwargs` passes them on.

    Returns:
        The parameters by name, or None if the last base accepts arbitrary keywords, too.
    """
    bases = create.__mro__[:-1] if inspect.isclass(create) else ()
    initializers = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)]
    known: dict[str, inspect.Parameter] = {}
    for function in initializers if bases else [create]:
        parameters = [*inspect.signature(function).parameters.values()][1 if bases else 0 :]  # without self
        known |= {one.name: one for one in parameters if one.kind not in _VARIADIC and one.name not in known}
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
            return known
    return None


def _create_parts(
    name: str,
    create: Callable[..., MapDataset],
    known: Mapping[str, inspect.Parameter],
    arguments: dict[str, Any],
) -> dict[str, MapDataset]:
    if "download" in known:
        root = {"root": _expand_home(_ROOT)} if "root" in known and _is_required(known["root"]) else {}
        arguments = {"download": True, **root, **arguments}
    selector = next((key for key in ("train", "split") if key in known and key not in arguments), None)
    for option, one in known.items():
        if _is_required(one) and option not in arguments and option != selector:
            problem = f"{option} is missing; write python:{name},{option}=VALUE"
            raise BadOption.of(name, problem, **{option: None})
    if selector is None:
        return {"train": _create(name, create, arguments)}
    if selector == "train":
        return {part: _create(name, create, arguments, train=part == "train") for part in ("train", "test")}
    parts: dict[str, MapDataset] = {}
    for part, names in SPLIT_NAMES.items():
        rejections = (ValueError, KeyError, *([FileNotFoundError] if part == "validation" else []))
        errors = []
        for split in names:
            try:
                parts[part] = _create(name, create, arguments, split=split)
                break
            except BadData as error:
                if not isinstance(error.__cause__, rejections):
                    raise
                errors.append(error)
        if "train" not in parts:
            raise errors[0]
    return parts


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty


def _create(
    name: str, create: Callable[..., MapDataset], arguments: dict[str, Any], **part: Any
) -> MapDataset:
    try:
        return create(**arguments, **part)
    except Exception as error:  # third-party code may raise anything
        call = ", ".join(f"{option}={value!r}" for option, value in {**arguments, **part}.items())
        reason = " ".join(str(error).split()) or type(error).__name__
        message = f"{name}({call}) raises an error: {reason}"
        raise BadData(message, owner=name, value={**arguments, **part}) from error


def _expand_home(value: Any) -> Any:
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~") else value


def _class_names(name: str, parts: Mapping[str, MapDataset]) -> Sequence[str] | None:
    """Return the names of the classes, if there are any. Raises `BadData` if those of two parts differ."""
    by_part = {part: _names(dataset) for part, dataset in parts.items()}
    train = by_part["train"]
    for part, names in by_part.items():
        if names != train:
            problem = f"the classes of train, {train}, and {part}, {names}, differ"
            raise BadData.of(name, problem, train, classes=names)
    return train


def _names(dataset: MapDataset) -> list[str] | None:
    names = getattr(dataset, "classes", None)
    by_name = getattr(dataset, "class_to_idx", None)
    if names is None and isinstance(by_name, Mapping):
        names = sorted(by_name, key=lambda name: by_name[name])
    if not isinstance(names, Sequence) or isinstance(names, str):
        return None
    return [", ".join(map(str, one)) if isinstance(one, tuple | list) else str(one) for one in names]
