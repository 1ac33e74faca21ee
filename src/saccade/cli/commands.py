"""The command line: its commands, and how it ends."""

from __future__ import annotations

import signal
import sys
from typing import Annotated, Any, NoReturn

try:
    import typer
except ModuleNotFoundError:  # the core was installed alone
    sys.exit("saccade: the command line needs more than the core; pip install 'saccade[report]'")

from saccade.cli.catalog import list_mechanisms, show
from saccade.cli.compare import compare, report
from saccade.cli.evaluate import evaluate
from saccade.cli.look import look
from saccade.cli.score import score
from saccade.cli.sites import sites
from saccade.cli.train import train
from saccade.errors import SaccadeError

app = typer.Typer(
    help="Visual attention: put it in, see where it looks, measure whether it helps.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("list")(list_mechanisms)
app.command()(show)
app.command()(sites)
app.command()(compare)
app.command()(train)
app.command()(evaluate)
app.command()(look)
app.command()(score)
app.command()(report)


@app.callback()
def saccade(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from saccade import __version__

        typer.echo(f"saccade {__version__}")
        raise typer.Exit


#: How an interrupted command is continued.
_AGAIN = {
    "compare": "; run the same command again to continue",
    "train": "; run the same command with --resume to continue",
}


def _terminated(number: int, _frame: Any) -> NoReturn:
    sys.exit(128 + number)


def main() -> None:
    """Run the command line.

    A user's mistake prints one sentence and exits with code 2. Ctrl-C exits with 130, SIGTERM with 143.
    """
    before = signal.signal(signal.SIGTERM, _terminated)
    if "" not in sys.path:  # a task may name a class of the current folder
        sys.path.append("")
    try:
        app()
    except SaccadeError as error:
        typer.echo(f"saccade: {error}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        typer.echo(f"saccade: {error.name!r} is not installed; pip install 'saccade[all]'", err=True)
        sys.exit(2)
    except SystemExit as stop:
        how = {130: "interrupted", 143: "terminated"}.get(stop.code if isinstance(stop.code, int) else 0)
        if how:  # 130 is typer's answer to Ctrl-C
            typer.echo(f"saccade: {how}{_AGAIN.get(sys.argv[1], '')}", err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
