"""Run the command line with `python -m saccade`."""

from saccade.cli import main

main()
