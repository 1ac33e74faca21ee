"""Data: tasks by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from saccade.data.digits import digits
from saccade.data.folder import folder
from saccade.data.huggingface import huggingface
from saccade.data.moving_digits import moving_digits
from saccade.data.python import python
from saccade.data.standard import SETS, standard
from saccade.data.task import Split, Task, TaskInfo
from saccade.data.white_patch import white_patch
from saccade.errors import BadOption, UnknownName
from saccade.grammar import format_value, parse, split_options

__all__ = [
    "TASKS",
    "Split",
    "Task",
    "TaskInfo",
    "check_task",
    "digits",
    "folder",
    "huggingface",
    "load_task",
    "moving_digits",
    "python",
    "standard",
    "white_patch",
    "with_options",
]

TASKS: Mapping[str, Callable[..., Task]] = {
    "white-patch": white_patch,
    "folder": folder,
    "python": python,
    "huggingface": huggingface,
    "digits": digits,
    "moving-digits": moving_digits,
    **{name: functools.partial(standard, name) for name in SETS},
}


#: What a name alone does not tell: the option that stands first, and what it is to be.
_FIRST = {
    "folder": ("path", "folder", "PATH"),
    "python": ("name", "class", "MODULE.CLASS"),
    "huggingface": ("path", "data set", "PATH"),
}


def check_task(text: str) -> tuple[Callable[..., Task], dict[str, Any]]:
    """Read `NAME[:option=value,...]`, or `folder:PATH[,...]`, into a loading function and its options.

    So are `python:MODULE.CLASS` and `huggingface:PATH` read. The options of a class of Python's, which only
    the class knows, are kept apart, as `options`.

    Raises `UnknownName` or `BadOption`. Reads no data.
    """
    name, colon, rest = text.partition(":")
    if name not in TASKS:
        raise UnknownName("task", name, TASKS)
    first, comma, others = rest.partition(",")
    options: dict[str, Any] = {}
    if name in _FIRST and not first.startswith(f"{_FIRST[name][0]}="):
        option, what, form = _FIRST[name]
        if not first:
            raise BadOption(f"{text!r} names no {what}; write {name}:{form}")
        options, rest, colon = {option: first}, others, comma
    options |= parse(f"{name}:{rest}")[1] if colon else {}
    known = {*inspect.signature(TASKS[name]).parameters} - {"options"}
    theirs = {option: options.pop(option) for option in [*options] if option not in known}
    if name == "python":
        return python, options | ({"options": theirs} if theirs else {})
    for option in theirs:
        raise UnknownName(f"option of {name}", option, known)
    return TASKS[name], options


def with_options(text: str, options: Mapping[str, Any]) -> str:
    """Return a task's text with these options in it, in place of those of the same names.

    Raises `UnknownName` for an option that the task does not have, and what `check_task` raises.

    >>> with_options("folder:photos,size=32,seed=1", {"size": 64, "max_samples": 100})
    'folder:photos,seed=1,size=64,max_samples=100'
    >>> with_options("white-patch", {"max_samples": 100})
    Traceback (most recent call last):
    saccade.errors.UnknownName: unknown option of white-patch 'max_samples'; choose from ...
    """
    name, _, rest = text.partition(":")
    kept = [part for part in split_options(rest) if part.partition("=")[0].strip() not in options]
    given = [f"{option}={format_value(value)}" for option, value in options.items()]
    changed = ",".join([part for part in kept if part] + given)
    text = f"{name}:{changed}" if changed else name
    check_task(text)
    return text


@functools.lru_cache(maxsize=1)  # the runs of a comparison share one task
def load_task(text: str) -> Task:
    """Load a task by its text, as the command line and recipes write it.

    >>> load_task("white-patch:size=32,train=4,validation=2,test=2").test.images.shape
    torch.Size([2, 3, 32, 32])
    """
    load, options = check_task(text)
    return load(**options)
