"""Registry of tasks: built-in tasks, and tasks of plugins (entry points `saccade.tasks`)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from saccade import plugins
from saccade.annotations import check_annotations
from saccade.data.digits import load_digits
from saccade.data.folder import load_folder
from saccade.data.huggingface import load_huggingface
from saccade.data.moving_digits import load_moving_digits
from saccade.data.python import load_python
from saccade.data.segmentation import load_segmentation
from saccade.data.task import Task
from saccade.data.torchvision_sets import TORCHVISION_SETS, load_torchvision
from saccade.data.white_patch import load_white_patch
from saccade.errors import BadOption
from saccade.grammar import check_options, format_value, parse, split_options

_GROUP = "saccade.tasks"
_LARGEST = 2**40  # of an integer; what fits into memory is checked where the images are

TASKS: Mapping[str, Callable[..., Task]] = {
    "white-patch": load_white_patch,
    "folder": load_folder,
    "segmentation": load_segmentation,
    "python": load_python,
    "huggingface": load_huggingface,
    "digits": load_digits,
    "moving-digits": load_moving_digits,
    **{name: functools.partial(load_torchvision, name) for name in TORCHVISION_SETS},
}

#: Tasks whose first option may be written without its name: the option, what it is, and how it is written.
_FIRST = {
    "folder": ("path", "folder", "PATH"),
    "segmentation": ("path", "folder", "PATH"),
    "python": ("name", "class", "MODULE.CLASS"),
    "huggingface": ("path", "data set", "PATH"),
}


@dataclass(frozen=True)
class TaskChoice:
    """A resolved task: the function that loads it, and its arguments. Choices with equal texts are equal.

    Attributes:
        text: The task as text, NAME[:option=value,...].
        load: Function that returns the task.
        options: Arguments of the function.
    """

    text: str
    load: Callable[..., Task] = field(compare=False)
    options: Mapping[str, Any] = field(compare=False)

    @property
    def name(self) -> str:
        return self.text.partition(":")[0]

    @property
    def effect(self) -> str | None:
        """What loading does beyond computing from bundled data, in words; None for nothing."""
        match self.name:
            case "python":
                return f"imports and calls {self.options.get('name')!r}"
            case "huggingface":
                return f"downloads or reads the data set {self.options.get('path')!r}"
            case "folder" | "segmentation":
                return f"reads the images in {self.options.get('path')!r}"
            case "white-patch" | "digits" | "moving-digits":
                read = self.options.get("source", self.options.get("root"))
                return None if read is None else f"reads {read!r}"
            case _:
                return f"downloads or reads the data set {self.name!r}"


def task_names() -> list[str]:
    """Return the names of all tasks: built-in tasks and tasks of installed plugins."""
    return sorted({*TASKS, *plugins.names(_GROUP, TASKS)})


def resolve_task(text: str) -> TaskChoice:
    """Resolve the text of a task. Reads no data.

    The forms are `NAME[:option=value,...]`, `folder:PATH[,...]`, `segmentation:PATH[,...]`,
    `python:MODULE.CLASS[,...]` and `huggingface:PATH[,...]`. Options that `python` does not have are passed
    to the class.

    Args:
        text: The task as text.

    Returns:
        The function that loads the task, and its arguments.

    Raises:
        UnknownName: The task or an option does not exist.
        BadOption: The text has none of these forms.

    Example:
        >>> resolve_task("folder:photos,size=64").options
        {'path': 'photos', 'size': 64}
    """
    name, colon, rest = text.partition(":")
    load = plugins.find("task", name, TASKS, _GROUP)
    first, *others = split_options(rest)
    options: dict[str, Any] = {}
    option, what, form = _FIRST.get(name, ("", "", ""))
    if option and not first.startswith(f"{option}="):
        if not first:
            raise BadOption(f"{text!r} names no {what}; write {name}:{form}", owner=name, option=option)
        if first[0] in "'\"":  # a path with a comma
            first = parse(f"{name}:{option}={first}")[1][option]
        options, rest, colon = {option: first}, ",".join(others), ":" * bool(others)
    options |= parse(f"{name}:{rest}")[1] if colon else {}
    known = {*inspect.signature(load).parameters} - {"options"}
    of_class = {option: options.pop(option) for option in [*options] if option not in known}
    if name != "python":
        check_options(name, of_class, known)
    options = check_annotations(name, load, options, _LARGEST)
    return TaskChoice(text, load, options | ({"options": of_class} if of_class else {}))


def with_options(text: str, options: Mapping[str, Any]) -> str:
    """Set options in the text of a task; options of the same name are replaced.

    Args:
        text: The task as text.
        options: The options to set.

    Returns:
        The new text.

    Raises:
        UnknownName: The task or an option does not exist.
        BadOption: The text is malformed.

    Example:
        >>> with_options("folder:photos,size=32,seed=1", {"size": 64, "max_samples": 100})
        'folder:photos,seed=1,size=64,max_samples=100'
        >>> with_options("white-patch", {"max_samples": 100})
        Traceback (most recent call last):
        saccade.errors.UnknownName: unknown option of white-patch 'max_samples'; choose from ...
    """
    name, _, rest = text.partition(":")
    kept = [part for part in split_options(rest) if part.partition("=")[0].strip() not in options]
    added = [f"{option}={format_value(value)}" for option, value in options.items()]
    changed = ",".join([part for part in kept if part] + added)
    text = f"{name}:{changed}" if changed else name
    resolve_task(text)
    return text


@functools.lru_cache(maxsize=1)  # the runs of a comparison share one task
def load(choice: TaskChoice) -> Task:
    """Load a resolved task. The latest task is cached.

    Raises:
        BadOption: A value is out of range.
        BadData: The data cannot be used.
    """
    return choice.load(**choice.options)


def load_task(text: str) -> Task:
    """Load a task by its text, as in recipes and on the command line.

    Args:
        text: The task as text, see `resolve_task`.

    Raises:
        UnknownName: The task or an option does not exist.
        BadOption: A value is out of range, or the text is malformed.
        BadData: The data cannot be used.

    Example:
        >>> load_task("white-patch:size=32,train=4,validation=2,test=2").test.images.shape
        torch.Size([2, 3, 32, 32])
    """
    return load(resolve_task(text))
