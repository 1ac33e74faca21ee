"""Data: tasks by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from saccade.data.digits import digits
from saccade.data.folder import folder
from saccade.data.moving_digits import moving_digits
from saccade.data.standard import SETS, standard
from saccade.data.task import Split, Task
from saccade.data.white_patch import white_patch
from saccade.errors import BadOption, UnknownName
from saccade.registry import parse

__all__ = [
    "TASKS",
    "Split",
    "Task",
    "check_task",
    "digits",
    "folder",
    "load_task",
    "moving_digits",
    "standard",
    "white_patch",
]

TASKS: Mapping[str, Callable[..., Task]] = {
    "white-patch": white_patch,
    "folder": folder,
    "digits": digits,
    "moving-digits": moving_digits,
    **{name: functools.partial(standard, name) for name in SETS},
}


def check_task(text: str) -> tuple[Callable[..., Task], dict[str, Any]]:
    """Read `NAME[:option=value,...]`, or `folder:PATH[,...]`, into a loading function and its options.

    Raises `UnknownName` or `BadOption`. Reads no data.
    """
    name, colon, rest = text.partition(":")
    if name not in TASKS:
        raise UnknownName("task", name, TASKS)
    path, comma, others = rest.partition(",")
    options: dict[str, Any] = {}
    if name == "folder" and not path.startswith("path="):
        if not path:
            raise BadOption(f"{text!r} names no folder; write folder:PATH")
        options, rest, colon = {"path": path}, others, comma
    options |= parse(f"{name}:{rest}")[1] if colon else {}
    known = inspect.signature(TASKS[name]).parameters
    for option in options:
        if option not in known:
            raise UnknownName(f"option of {name}", option, known)
    return TASKS[name], options


@functools.lru_cache(maxsize=1)  # the runs of a comparison share one task
def load_task(text: str) -> Task:
    """Load a task by its text, as the command line and recipes write it.

    >>> load_task("white-patch:size=32,train=4,validation=2,test=2").test.images.shape
    torch.Size([2, 3, 32, 32])
    """
    load, options = check_task(text)
    return load(**options)
