"""Help that fits a screen: options in groups, most of them on one line, and an example."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from typing import Any

import typer
from typer.core import TyperCommand

_WIDEST, _LEFT = 100, 30  # columns of the text, and of the names of options


class HelpCommand(TyperCommand):
    """A command whose help has no boxes: a title per group, and a line per option."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        width = min(shutil.get_terminal_size().columns, _WIDEST)
        usage = [f"Usage: {ctx.command_path}", *self.collect_usage_pieces(ctx)]
        lines = [*textwrap.wrap(" ".join(usage), width), ""]
        for paragraph in inspect.cleandoc(self.help or "").split("\n\n"):
            lines += textwrap.wrap(paragraph.replace("`", ""), width)
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.params:
            is_option = parameter.param_type_name == "option"
            title = getattr(parameter, "rich_help_panel", None) or ("Options" if is_option else "Arguments")
            groups.setdefault(title, []).append(_record(parameter, ctx))
        left = min(_LEFT, 4 + max((len(names) for rows in groups.values() for names, _ in rows), default=0))
        lines += [""] if groups else []
        for title, rows in groups.items():
            lines += [typer.style(f"{title}:", bold=True)]
            lines += [line for row in rows for line in _row(*row, left, width)]
        if self.epilog:
            lines += ["", *textwrap.wrap(self.epilog.replace("`", ""), width, subsequent_indent="  ")]
        formatter.write("\n".join(lines) + "\n")


#: How typer writes the type of a value -> how the help does.
_TYPES = {
    "<int>": "N",
    "<int range>": "N",
    "<float>": "X",
    "<float range>": "X",
    "<str>": "TEXT",
    "<list[str]>": "TEXT",
    " <list[Path]>": "",
}


def _record(parameter: Any, ctx: Any) -> tuple[str, str]:
    """Return the names of an option with its value, and its help."""
    names, text = parameter.get_help_record(ctx)
    for written, short in _TYPES.items():
        names = names.replace(written, short)
    return names, text.replace("`", "")


def _row(names: str, text: str, left: int, width: int) -> list[str]:
    """Return the lines of an option: its names, and its help beside them or, if they are long, below."""
    wrapped = textwrap.wrap(text, width - left)
    beside = f"  {names}".ljust(left)
    if len(names) + 3 > left:
        return [beside, *(" " * left + line for line in wrapped)]
    return [f"{beside}{wrapped[0]}", *(" " * left + line for line in wrapped[1:])]
