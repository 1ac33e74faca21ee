"""The commands of the command line, and its exit codes."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

try:
    import typer
except ModuleNotFoundError:  # the core was installed alone
    sys.exit("saccade: the command line needs more than the core; pip install 'saccade[report]'")

from saccade.cli.catalog import list_mechanisms, show
from saccade.cli.compare import compare, report
from saccade.cli.demo import demo
from saccade.cli.doctor import doctor
from saccade.cli.evaluate import evaluate
from saccade.cli.export import export
from saccade.cli.help import HelpCommand
from saccade.cli.look import look
from saccade.cli.score import score
from saccade.cli.search import search
from saccade.cli.sites import sites
from saccade.cli.terminal import echo
from saccade.cli.train import train
from saccade.errors import SaccadeError
from saccade.process_end import end_process_after

app = typer.Typer(
    help="Visual attention for PyTorch: insert it, see where a model looks, measure whether it helps.",
    epilog="Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted, 143 terminated.",
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # the default would read NAME[:option=value] as markup
)

_CATALOG, _EXPERIMENTS, _MODELS = "Mechanisms", "Experiments", "Trained and pretrained models"
_INSTALLATION = "Installation"


def _add(command: Callable[..., None], panel: str, example: str, name: str | None = None) -> None:
    epilog = f"Example: `saccade {example}`"
    app.command(name, cls=HelpCommand, rich_help_panel=panel, epilog=epilog)(command)


_add(list_mechanisms, _CATALOG, "list --domain spatial", name="list")
_add(show, _CATALOG, "show cbam --channels 256")
_add(sites, _CATALOG, "sites timm:resnet50 -a se --where residual")
_add(demo, _EXPERIMENTS, "demo")
_add(compare, _EXPERIMENTS, "compare white-patch -a none -a cbam --out runs/first")
_add(train, _EXPERIMENTS, "train folder:photos,size=64 -a cbam --epochs 10 --out runs/cbam")
_add(search, _EXPERIMENTS, "search folder:photos --backbone timm:resnet18 --budget 2h")
_add(report, _EXPERIMENTS, "report runs/first")
_add(score, _EXPERIMENTS, "score runs/first --images 200")
_add(evaluate, _MODELS, "evaluate runs/cbam")
_add(export, _MODELS, "export runs/cbam --to onnx --maps")
_add(look, _MODELS, "look resnet18 photo.jpg --pretrained --out look")
_add(doctor, _INSTALLATION, "doctor --json")


@app.callback()
def saccade(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from saccade import __version__

        typer.echo(f"saccade {__version__}")
        raise typer.Exit


#: How an interrupted command is continued.
_CONTINUE = {
    "compare": "; run the same command again to continue",
    "demo": "; run the same command again to continue",
    "search": "; run the same command again to continue",
    "train": "; run the same command with --resume to continue",
}


def _terminated(number: int, _frame: Any) -> NoReturn:
    sys.exit(128 + number)


def main() -> None:
    """Run the command line.

    A user's mistake prints one sentence and exits with code 2. Ctrl-C exits with 130, SIGTERM with 143.
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal may not know a letter
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    before = signal.signal(signal.SIGTERM, _terminated)
    if "" not in sys.path:  # a task may name a class of the current folder
        sys.path.append("")
    try:
        app()
    except SaccadeError as error:
        echo(f"saccade: {error}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        typer.echo(f"saccade: {error.name!r} is not installed; pip install 'saccade[all]'", err=True)
        sys.exit(2)
    except SystemExit as stop:
        how = {130: "interrupted", 143: "terminated"}.get(stop.code if isinstance(stop.code, int) else 0)
        if how:  # 130 is typer's answer to Ctrl-C
            typer.echo(f"saccade: {how}{_CONTINUE.get(sys.argv[1], '')}", err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def run_and_exit() -> NoReturn:
    """Run the command line and end the process: the entry point."""
    end_process_after(main)
