"""Any data set of torchvision's kind, by the name of its Python class."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from saccade.data.decode import OnBadImage, check_reading
from saccade.data.items import Items, task_of
from saccade.data.task import Task
from saccade.errors import BadData, BadOption, UnknownName

#: What classes with an option `split` call their parts.
SPLITS = {
    "train": ("train", "trainval"),
    "test": ("test",),
    "validation": ("val", "valid", "validation"),
}

_ROOT = "~/.cache/saccade"


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
    """A data set by the name of its class, MODULE.CLASS, as torchvision.datasets.SVHN or one of your own.

    A data set is a sequence of (image, label): an image of PIL's, a tensor (C, H, W) or an array (H, W, C),
    of bytes or of floats from 0 to 1; and an integer. Its `classes` or `class_to_idx` name the classes.

    What the class takes says how it is split. With `train`, it is called with True and False; with `split`,
    with "train" (or "trainval"), "test" and, where it knows one of them, "val", "valid" or "validation";
    else, or if `options` say which part is meant, it is one set. A set without test images is tested on its
    validation images. What is missing then is a share `val_fraction` of the training images, drawn at random.

    size            side of the images, which are resized and cut at their center; by default the shorter side
                    of the first one
    max_samples           at most this many images of each split, drawn at random
    on_bad_image    an image that cannot be read ends the loading ("fail"), or is left out and listed ("skip")
    workers         threads that read it; more than one only if its `__getitem__` may be called by several
    options         those of the class. Unless they say otherwise, a class that takes `download` is asked to,
                    and gets ~/.cache/saccade as its `root`

    Raises `BadOption` for a name of another form and an option that is missing, `UnknownName` for a class or
    an option that does not exist, `BadData` for a class of which no data set can be made, or one of another
    kind.

    >>> small = {"image_size": (3, 16, 16), "num_classes": 3}
    >>> task = load_python("torchvision.datasets.FakeData", max_samples=20, options=small)
    >>> task.train.images.shape, task.classes
    (torch.Size([20, 3, 16, 16]), ('0', '1', '2'))
    """
    check_reading(
        "python",
        size=size,
        val_fraction=val_fraction,
        max_samples=max_samples,
        on_bad_image=on_bad_image,
        workers=workers,
    )
    make = find(name)
    known = parameters(make)
    given = {key: _expanded(value) for key, value in (options or {}).items()}
    ours = inspect.signature(load_python).parameters
    for option in given:
        if known is not None and option not in known:
            raise UnknownName(f"option of {name}", option, {*known, *ours} - {"options"})
    parts = _parts(name, make, known or {}, given)
    return task_of(
        f"python:{name}",
        parts,
        _classes(name, parts),
        size=size,
        val_fraction=val_fraction,
        max_samples=max_samples,
        seed=seed,
        on_bad_image=on_bad_image,
        workers=workers,
    )


def find(name: str) -> Callable[..., Items]:
    """Return a class by its name. Raises `BadOption`, `BadData` or `UnknownName` if there is none."""
    module, dot, last = name.rpartition(".")
    if not dot or not all(part.isidentifier() for part in name.split(".")):
        raise BadOption(f"python: {name!r} is not of the form MODULE.CLASS")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise BadData(f"python: there is no module {error.name!r} to import") from error
        raise BadData(f"python: {module!r} needs {error.name!r}, which is not installed") from error
    except Exception as error:  # anybody's code may raise anything
        raise BadData(f"python: {module!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(found, last):
        classes = (its for its, value in vars(found).items() if inspect.isclass(value))
        raise UnknownName(f"class of {module}", last, classes)
    make: Callable[..., Items] = getattr(found, last)
    if not callable(make):
        raise BadData(f"python: {name!r} is no class, but a {type(make).__name__}")
    return make


def parameters(make: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """Return what a class takes: what it names itself and, where it passes on others, what its bases name.

    None if there is no telling: if the last of them passes on others, too.
    """
    found: dict[str, inspect.Parameter] = {}
    for signature in _signatures(make):
        its = signature.parameters.values()
        found |= {one.name: one for one in its if one.kind not in _VARIABLE and one.name not in found}
        if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in its):
            return found
    return None


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _signatures(make: Callable[..., Any]) -> Iterator[inspect.Signature]:
    if not inspect.isclass(make):
        yield inspect.signature(make)
        return
    for one in make.__mro__[:-1]:
        if "__init__" in vars(one):
            signature = inspect.signature(one.__init__)  # type: ignore[misc]  # of the class, as it stands there
            yield signature.replace(parameters=[*signature.parameters.values()][1:])


def _parts(
    name: str, make: Callable[..., Items], known: Mapping[str, inspect.Parameter], given: dict[str, Any]
) -> dict[str, Items]:
    given = {**_defaults(known), **given}
    by = next((option for option in ("train", "split") if option in known and option not in given), None)
    for option, one in known.items():
        if one.default is one.empty and option not in given and option != by:
            raise BadOption(f"{name} needs the option {option}; write python:{name},{option}=VALUE")
    if by == "train":
        return {"train": _made(name, make, given, train=True), "test": _made(name, make, given, train=False)}
    if by is None:
        return {"train": _made(name, make, given)}
    found: dict[str, Items] = {}
    for part, names in SPLITS.items():
        refused = (ValueError, KeyError, *((FileNotFoundError,) if part == "validation" else ()))
        errors = []
        for its in names:
            try:
                found[part] = _made(name, make, given, split=its)
                break
            except BadData as error:
                if not isinstance(error.__cause__, refused):
                    raise
                errors.append(error)
        if "train" not in found:
            raise errors[0]
    return found


def _defaults(known: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    if "download" not in known:
        return {}
    its_own = "root" not in known or known["root"].default is not inspect.Parameter.empty
    return {"download": True} if its_own else {"download": True, "root": _expanded(_ROOT)}


def _made(name: str, make: Callable[..., Items], given: dict[str, Any], **part: Any) -> Items:
    try:
        return make(**given, **part)
    except Exception as error:  # anybody's code may raise anything
        shown = ", ".join(f"{option}={value!r}" for option, value in {**given, **part}.items())
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadData(f"{name}({shown}) cannot be made: {reason}") from error


def _expanded(value: Any) -> Any:
    return str(Path(value).expanduser()) if isinstance(value, str) and value.startswith("~") else value


def _classes(name: str, parts: Mapping[str, Items]) -> Sequence[str] | None:
    """Return the names of the classes, if there are any. Raises `BadData` if those of two parts differ."""
    named = {part: _names(its) for part, its in parts.items()}
    for part, names in named.items():
        if names != named["train"]:
            raise BadData(f"{name}: the classes of train, {named['train']}, and {part}, {names}, differ")
    return named["train"]


def _names(items: Items) -> list[str] | None:
    names = getattr(items, "classes", None)
    by_name = getattr(items, "class_to_idx", None)
    if names is None and isinstance(by_name, Mapping):
        names = sorted(by_name, key=lambda its: by_name[its])
    if not isinstance(names, Sequence) or isinstance(names, str):
        return None
    return [", ".join(map(str, one)) if isinstance(one, tuple | list) else str(one) for one in names]
