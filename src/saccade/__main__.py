"""Run the command line with `python -m saccade`."""

from saccade.cli import run_and_exit

run_and_exit()
