"""Write docs/support.md, what each mechanism supports, from benchmarks/results/support.json.

python docs/supported.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE, FILE = ROOT / "docs" / "support.md", ROOT / "benchmarks" / "results" / "support.json"

HEAD = """# Export, compilation and half precision

<!-- written by docs/supported.py from benchmarks/results/support.json -->

What every mechanism and model supports. `yes` means that a check passed; anything else is explained below
the tables.

- *ONNX*, *program*: `saccade.export`. The number is the largest difference between file and model, relative
  to the largest value, at the size of the export and at two unseen sizes with other batch sizes. *any*
  names the axes that may have any size.
- *ONNX, maps*: the same, with the attention maps as outputs.
- *compile*: `torch.compile(fullgraph=True)`, in training, gives the results, gradients and maps of eager
  mode. *any batch*: several batch sizes compile at most twice. *dynamic*: two sizes with `dynamic=True`,
  and how often they compile. Graphs run without code generation (backend `aot_eager`), so this says nothing
  about speed.
- *bfloat16, float16*: the module and the input in this dtype. *autocast*: bfloat16, forward and backward.
- *channels last*: inputs and weights of this memory layout. *odd sizes, batch of 1*: maps with odd,
  different and thin extents. *1 x 1*: a map of one position, in evaluation mode.
- *large activations*: input of standard deviation 30. Results and gradients are finite, and the number is
  the error |y - y32| / |y32| against float32, the largest of all examples: in bfloat16, under autocast to
  bfloat16, and under autocast to float16 with a scaled loss. The tests allow 48 eps, which is 0.375 for
  bfloat16 and 0.047 for float16.
"""

COLUMNS = {
    "compile": "compile",
    "recompiles": "any batch",
    "compile_dynamic": "dynamic",
    "dtypes": "bfloat16, float16",
    "autocast": "autocast",
    "channels_last": "channels last",
    "sizes": "odd sizes, batch of 1",
    "one_position": "1 x 1",
}
FILES = {"onnx": "ONNX", "program": "program", "maps": "ONNX, maps"}
HALF = ("bfloat16", "autocast to bfloat16", "autocast to float16")

Row = Mapping[str, Any]


def cell(value: Any, notes: dict[str, int]) -> str:
    """Return one cell: yes, a number, or the number of the note that explains why not."""
    if value is None:
        return "yes"
    if isinstance(value, float):
        return f"{value:.0e}" if value else "0"
    if isinstance(value, int):
        return "once" if value == 1 else f"{value} times"
    return f"no [{notes.setdefault(value, len(notes) + 1)}]"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return ["", *(f"| {' | '.join(row)} |" for row in (head, rule, *rows)), ""]


def files(rows: list[Row], notes: dict[str, int]) -> list[str]:
    lines = [
        [f"`{row['name']}`", ", ".join(row["dynamic"]), *(cell(row[column], notes) for column in FILES)]
        for row in rows
    ]
    return table(["", "any", *FILES.values()], lines)


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    notes: dict[str, int] = {}
    machine, rows = result["hardware"], result["rows"]
    yield HEAD
    yield f"`{result['command']}`, on {machine['cpu']}, torch {machine['torch']}."
    yield "\n## Export of mechanisms"
    yield from files(rows, notes)
    yield "## Export of models"
    yield from files(result["models"], notes)
    yield "## Compilation, dtypes, layouts and sizes"
    checked = [[f"`{row['name']}`", *(cell(row[column], notes) for column in COLUMNS)] for row in rows]
    yield from table(["", *COLUMNS.values()], checked)
    yield "## Large activations"
    yield from table(
        ["", *HALF],
        [[f"`{row['name']}`", *(cell(error, notes) for error in row["large"])] for row in rows],
    )
    if notes:
        yield "## Notes\n"
        yield from (f"{number}. {reason}" for reason, number in notes.items())


def page() -> str:
    """Return the page."""
    return "\n".join(lines(json.loads(FILE.read_text()))).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
