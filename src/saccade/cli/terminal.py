"""The terminal: printed text is safe to print, and paths are checked as they are read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path

import typer
from rich.console import Console

from saccade.errors import printable

_LONGEST_LINE = 2000


def echo(text: str, *, err: bool = False) -> None:
    """Print text; control characters in the names of files and classes are escaped."""
    for line in text.splitlines():
        typer.echo(printable(line, _LONGEST_LINE), err=err)


def announce() -> None:
    """Tell the user of a terminal that something happens: PyTorch takes seconds to import."""
    if sys.stderr.isatty():
        typer.echo("saccade: loading PyTorch ...", err=True)


def console(*, stderr: bool = False) -> Console:
    """Return a console that takes no text for markup: names may contain brackets."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


@contextmanager
def reserve_stdout(is_reserved: bool) -> Iterator[None]:
    """Send what libraries print to standard error, while standard output is reserved for JSON."""
    with redirect_stdout(sys.stderr) if is_reserved else nullcontext():
        yield


def parse_path(text: str | Path) -> Path:
    """Return the path of an argument; `~` is the home folder.

    Raises:
        typer.BadParameter: The path is empty or longer than the system allows.
    """
    text = str(text)  # the default is a path already
    if not text.strip():
        raise typer.BadParameter("the path is empty")
    path = Path(text).expanduser()
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RuntimeError) as error:
        if not isinstance(error, NotADirectoryError):
            reason = getattr(error, "strerror", None) or str(error)
            raise typer.BadParameter(f"{printable(text, 200)!r}: {reason}") from error
    return path


path_argument = partial(typer.Argument, parser=parse_path)
path_option = partial(typer.Option, parser=parse_path, metavar="PATH")
