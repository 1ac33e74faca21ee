"""The command line. Every command imports what it needs when it runs."""

from saccade.cli.commands import app, main, run_and_exit

__all__ = ["app", "main", "run_and_exit"]
