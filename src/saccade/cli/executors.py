"""The executor that the options of a command ask for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saccade.experiments import Executor


def create_executor(command: str, name: str, **options: Any) -> Executor:
    """Create an executor: local, processes or ray.

    Args:
        command: Name of the command, for messages.
        name: Name of the executor.
        options: Its arguments. None and False mean that the option is absent.

    Raises:
        BadOption: An option belongs to another executor, or has a bad value.
    """
    from saccade.errors import bad_option
    from saccade.experiments import Local, Processes, Ray

    create: Callable[..., Executor] = {"local": Local, "processes": Processes, "ray": Ray}[name]
    present = {option: value for option, value in options.items() if value is not None and value is not False}
    for option, value in present.items():
        if option not in inspect.signature(create).parameters:
            other = "processes" if option == "jobs" else "ray"
            expected = f"applies to --executor {other}, not to --executor {name}"
            raise bad_option(command, expected, **{option: value})
    return create(**present)
