"""The end of a process."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn


def end_process_after(call: Callable[..., object], *arguments: object) -> NoReturn:
    """Call a function, then end the process, with the code of a `SystemExit` or 0.

    Python takes apart all imported modules at its end, which takes a second or more. This function waits for
    threads, calls the functions of `atexit` and writes what is buffered. It leaves the modules as they are.

    Args:
        call: The function. If it raises another error, the process goes on.
        arguments: Its arguments.
    """
    code: str | int | None = None
    try:
        call(*arguments)
    except SystemExit as stop:
        code = stop.code
    if isinstance(code, str):
        sys.exit(code)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:  # nobody reads it: Python knows what to do then
                sys.exit(code)
    os._exit(code or 0)
