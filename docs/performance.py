"""Write docs/performance.md, the page of speed and memory, and its plots, from benchmarks/results.

python docs/performance.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dot_plot import dot_plot
from results import FILES, Result, Section, page, table

PAGE = Path(__file__).parent / "performance.md"

HEAD = """# Speed and memory

<!-- written by docs/performance.py from benchmarks/results -->

What attention costs, compared in one process with textbook code, with other libraries and with the least that
any implementation has to read and write. Every table is generated from a result file, which the command
writes. Compare numbers within a table, not between machines."""


def mechanisms(result: Result) -> list[str]:
    columns = list(dict.fromkeys(name for row in result["rows"] for name in row["milliseconds"]))
    rows = (
        (
            f"`{row['mechanism']}` {tuple(row['shape'])}",
            *(f"{row['milliseconds'][name]:.1f}" if name in row["milliseconds"] else "" for name in columns),
        )
        for row in result["rows"]
    )
    return [
        f"{result['what'].capitalize()}. The peers are modules of the same size from torchvision (`se`), "
        "timm (`eca`, `cbam`, `coordinate`, `split_attention`, `sk`) and torch (`multi_head`). *Ours, "
        "plain*: without `saccade[fast]`; *floor* scales the map and its gradient once.",
        "",
        "![Time of the gates as a multiple of the floor](performance-gates.svg)",
        "",
        *table(("", *columns), rows),
        *targets(result["rows"]),
        *saved(result["rows"]),
        *profiles(result["rows"]),
    ]


def other_setting(result: Result) -> list[str]:
    """Return a shorter table: ours, and the best of the others."""

    def best(times: Times, *, compiled: bool) -> str:
        others = [t for key, t in times.items() if is_rival(key) and ("compiled" in key) == compiled]
        return f"{min(others):.1f}"

    rows = (
        (
            f"`{row['mechanism']}` {tuple(row['shape'])}",
            f"{times['ours']:.1f}",
            best(times, compiled=False),
            f"{times['ours, compiled']:.1f}",
            best(times, compiled=True),
            f"{times['floor']:.1f}",
        )
        for row in result["rows"]
        for times in [row["milliseconds"]]
    )
    head = ("", "ours", "best other", "ours, compiled", "best other, compiled", "floor")
    slower = [
        f"`{row['mechanism']}` {tuple(row['shape'])}{' compiled' * compiled} ({100 * (own / other - 1):.0f}%)"
        for row in result["rows"]
        for compiled in (False, True)
        for times in [row["milliseconds"]]
        for own in [times["ours, compiled" if compiled else "ours"]]
        for other in [min(t for k, t in times.items() if is_rival(k) and ("compiled" in k) == compiled)]
        if own > 1.03 * other
    ]
    return [
        f"{result['what'].capitalize()}.",
        *table(head, rows),
        f"Slower than the best other by more than 3%: {', '.join(slower) or 'none'}. {noise(result['rows'])}",
    ]


def noise(rows: list[dict[str, Any]]) -> str:
    """Say by how much times of the same code differ: with and without loops, where no loop runs."""
    times = [row["milliseconds"] for row in rows if all(": plain" in choice for choice in row["ran"])]
    ratios = [time["ours"] / time["ours, plain"] for time in times]
    most = max(max(ratio, 1 / ratio) for ratio in ratios) - 1
    return (
        f"Where no native loop runs, our code was timed twice: the {len(ratios)} pairs of times differ by "
        f"up to {100 * most:.0f}%."
    )


def is_rival(form: str) -> bool:
    return form.startswith(("textbook", "peer"))


def saved(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of forward passes and of what is kept for the backward pass."""
    cells = (
        (
            f"`{row['mechanism']}` {tuple(row['shape'])}",
            *(f"{row['forward'][form]:.1f}" if form in row["forward"] else "" for form in FORMS),
            *(f"{row['saved'][form]:.2f}" if form in row["saved"] else "" for form in FORMS),
        )
        for row in rows
    )
    return [
        "The forward pass alone, in milliseconds, and the memory that is kept for the backward pass, "
        "parameters aside, as a multiple of the map.",
        *table(("", *(f"forward, {f}" for f in FORMS), *(f"saved, {f}" for f in FORMS)), cells),
    ]


FORMS = ("ours", "textbook", "peer")
#: The rows whose operations the page lists, because a target is missed there.
PROFILED = (("se", 56), ("cbam", 56), ("cbam", 7))


def profiles(rows: list[dict[str, Any]]) -> list[str]:
    """Return what takes the time where a target is missed."""
    lines = []
    for row in rows:
        if row["shape"][0] > 32 or (row["mechanism"], row["shape"][2]) not in PROFILED:
            continue
        operations = row["profile"]
        total = sum(event["milliseconds"] for event in operations)
        number = sum(event["calls"] for event in operations)
        parts = [f"`{e['operation']}` {e['milliseconds']:.1f}" for e in operations[:6]]
        name = f"`{row['mechanism']}` {tuple(row['shape'])}"
        lines.append((name, f"{number:.0f}", f"{total:.1f}", ", ".join(parts)))
    return [WHY, *table(("", "operations", "ms", "the largest, ms"), lines)]


#: Why the targets that are missed cannot be met.
WHY = """Where a target is missed, the profile says why. A gate of channels reads its map for the means, and
reads and writes it for the product. Its backward pass reads the map and the gradient for the gradient of the
gate, and reads the gradient and writes that of the map. These are seven passes over memory, and the floor has
four. So 1.75 times the floor is the bound for a map that does not fit in a cache. On a map of 7 x 7, most of
the time is that of the number of operations, not of their size. The compiled form joins many of them."""

Times = Mapping[str, float]


def targets(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of what was aimed at, with the ratios of the run."""
    times: dict[tuple[str, int], Times] = {
        (row["mechanism"], row["shape"][2]): row["milliseconds"] for row in rows if row["shape"][0] <= 32
    }

    def least(name: str, side: int, *, compiled: bool) -> float:
        of = times[name, side]
        return min(t for key, t in of.items() if is_rival(key) and ("compiled" in key) == compiled)

    def best(name: str, side: int) -> float:
        return min(times[name, side][key] for key in ("ours", "ours, compiled"))

    lines = []
    for name, side, factor in (("cbam", 56, 4), ("cbam", 32, 2), ("cbam", 7, 2)):
        ratio = times[name, side]["peer"] / times[name, side]["ours"]
        lines.append(
            (f"`{name}`, {side} x {side}: faster than the peer", f"{factor} times", f"{ratio:.1f} times")
        )
    ratio = least("cbam", 56, compiled=True) / best("cbam", 56)
    lines.append(("`cbam`, 56 x 56: faster than what is compiled", "2 times", f"{ratio:.1f} times"))
    for name in ("se", "eca"):
        ratio = best(name, 56) / times[name, 56]["floor"]
        lines.append((f"`{name}`, 56 x 56: multiple of the floor", "1.6", f"{ratio:.1f}"))
    slower = [
        f"`{name}` {side} x {side}{' compiled' * compiled} ({100 * (own / other - 1):.0f}%)"
        for name, side in times
        for compiled in (False, True)
        for own in [times[name, side]["ours, compiled" if compiled else "ours"]]
        for other in [least(name, side, compiled=compiled)]
        if own > 1.03 * other
    ]
    lines.append(("slower than textbook or peer by more than 3%", "none", ", ".join(slower) or "none"))
    return table(("target", "aim", "measured"), lines)


def whole_networks(result: Result) -> list[str]:
    times = {(row["network"], row["form"], row["phase"]): row["milliseconds"] for row in result["rows"]}
    networks = list(dict.fromkeys(row["network"] for row in result["rows"]))

    def cells(network: str, form: str, phase: str) -> list[str]:
        if (time := times.get((network, form, phase))) is None:
            return ["", ""]
        none = times.get(("resnet50 none", "ours", phase))
        more = f"{100 * (time / none - 1):+.0f}%" if none and network.startswith("resnet50") else ""
        return [f"{time:,.0f} ms", more]

    columns = [(form, phase) for phase in ("training", "inference") for form in ("ours", "timm")]
    head = [name for form, phase in columns for name in (f"{phase}, {form}", "")]
    return [
        "A training step (forward, backward, SGD) and a forward pass of 8 images of 224 x 224, in float32: a "
        "ResNet-50 of timm with attention in each of its 16 residual branches, ours by `sc.attach` and "
        "timm's own at the same places, and ViT-S. The percentages are what is added to the network without "
        "attention.",
        "",
        "![What attention adds to a training step of a ResNet-50](performance-networks.svg)",
        "",
        *table(("network", *head), ([n, *(c for k in columns for c in cells(n, *k))] for n in networks)),
    ]


def step_memory(result: Result) -> list[str]:
    none, *rows = result["rows"]
    listed = sorted((row for row in rows if row["megabytes"] is not None), key=lambda row: row["megabytes"])
    too_large = [f"`{row['mechanism']}`" for row in rows if row["megabytes"] is None]
    more = f" Out of memory: {', '.join(too_large)}." if too_large else ""
    cells = ((f"`{row['mechanism']}`", f"{row['megabytes'] - none['megabytes']:+,.0f} MB") for row in listed)
    return [
        f"The peak of a training step of the ResNet-50 above without attention is "
        f"{none['megabytes']:,.0f} MB. With each drop-in in its 16 residual branches it is larger by:{more}",
        *table(("mechanism", "more"), cells),
    ]


def pipeline(result: Result) -> list[str]:
    large = next(row for row in result["rows"] if row["backbone"] == "resnet18")
    saving = large["checkpoint"]
    rows = (
        (
            row["network"],
            *(f"{row['milliseconds'][form]:.1f} ms" for form in ("saccade", "plain")),
            f"{100 * (row['ratio'] - 1):+.0f}%",
        )
        for row in result["rows"]
    )
    return [
        "A training step of `saccade train`, with its curves, checkpoints and exact resuming, and of the "
        "shortest PyTorch loop with the same network, data, optimizer, schedule and validation; batches "
        f"of 50, {result['threads']} threads. The difference is the median of those of interleaved rounds.",
        *table(("network", "saccade", "plain loop", "difference"), rows),
        "A checkpoint of the ResNet-18, with the state of its optimizer, has 134 MB. It is written after "
        f"each epoch, of {large['steps']} steps here. It takes {saving:.0f} ms, "
        f"{saving / large['steps']:.1f} ms of each step. Maps have channels last in `saccade train`, and "
        "not in the plain loop: with this layout, a step of the ResNet-18 is slower at 32 x 32 and faster "
        "at 224 x 224.",
    ]


def waiting(result: Result) -> list[str]:
    def cell(number: float | None, unit: str) -> str:
        return "" if number is None else f"{number:,.3g} {unit}" if number < 100 else f"{number:,.0f} {unit}"

    rows = (
        (row["what"], *(cell(row[key], row["unit"]) for key in ("aim", "measured"))) for row in result["rows"]
    )
    return [
        "How long a user waits on this machine, each command in a process of its own.",
        *table(("", "aim", "measured"), rows),
        WHY_WAITING,
    ]


#: Why the aims that are missed are missed.
WHY_WAITING = """Where an aim is missed: a recorded channel gate also computes the energy of the weighted
features, which is one more pass over them, and keeps the features that the page shows. The time of the demo
is that of its matrix products: each step of `multi_head` computes 576 x 576 weights for each of 50 images,
forward and backward, in the fused kernel of PyTorch. `saccade score` runs the network on 252 changed copies
of each of 128 images, and on some of them with random weights. `saccade look RUN` restores a model of
Lightning, and most of its time and memory are those of imports: PyTorch, Lightning, torchmetrics and
torchvision."""


def pairwise(result: Result) -> list[str]:
    def cells(row: Result, unit: str, number: str) -> tuple[str, str]:
        ours, naive = row["ours"], row["naive"]
        return f"{ours[unit]:{number}}", "too large" if "skipped" in naive else f"{naive[unit]:{number}}"

    rows = (
        (
            f"`{row['mechanism']}`",
            f"{row['side']} x {row['side']}"
            + (f", {row['queries']} queries" * (row["queries"] < row["keys"])),
            *cells(row, "megabytes", ",.0f"),
            *cells(row, "seconds", ".3f"),
        )
        for row in result["rows"]
    )
    slower = [
        f"`{row['mechanism']}` at {row['side']} x {row['side']} ({100 * (ratio - 1):.0f}%)"
        for row in result["rows"]
        if "seconds" in row["naive"]
        for ratio in [row["ours"]["seconds"] / row["naive"]["seconds"]]
        if ratio > 1.03
    ]
    return [
        f"{result['what'].capitalize()}; {result['threads']} threads. *Naive* is the same module in "
        "its textbook form, with all its weights in memory; *too large* means that they do not fit.",
        *table(("", "map", "MB", "naive MB", "s", "naive s"), rows),
        f"Slower than the naive form by more than 3%: {', '.join(slower) or 'none'}.",
        "",
        "`additive` at 56 x 56 has 3136 x 3136 x 256 hyperbolic tangents. It computes them three times, as "
        "it keeps none for the backward pass: each is a quotient of two polynomials in vector instructions.",
    ]


def loader(result: Result) -> list[str]:
    rows = (
        (
            row["task"],
            f"`{row['backbone']}`, {row['batch_size']}",
            *(f"{row['loader'][augment]:,.0f}" for augment in ("none", "crop-flip")),
            f"{row['views']:,.0f}",
            f"{row['step']:,.0f}",
        )
        for row in result["rows"]
    )
    reading = next(row["read_once"] for row in result["rows"] if row["read_once"])
    return [
        "Images per second that the loader delivers: unchanged, with crops and flips, and as two "
        "color-augmented views (`objective: contrastive`), compared with the images per second of the "
        f"training step alone; threads: {result['threads']}. The images are in memory. The folder was "
        f"decoded beforehand, at {reading:,.0f} images per second.",
        *table(("", "network, batch", "loader", "crops and flips", "views", "training step"), rows),
    ]


SECTIONS: Mapping[str, tuple[str, Section]] = {
    "mechanisms-cpu": ("Mechanisms on a CPU", mechanisms),
    "mechanisms-cpu-channels_last": ("Maps with channels last", other_setting),
    "mechanisms-cpu-default": ("With the allocator as it is", other_setting),
    "whole-networks": ("Whole networks", whole_networks),
    "step-memory": ("Memory of a training step", step_memory),
    "pipeline-cpu": ("A training run", pipeline),
    "waiting-cpu": ("How long a user waits", waiting),
    "loader-cpu": ("Data loader throughput", loader),
    "pairwise-cpu": ("Memory and time of attention between positions", pairwise),
}


def gates_plot(result: Result) -> str:
    """Return the plot of the gates: multiples of the floor."""
    forms = ("ours", "textbook", "peer")
    names = [name for compiled in ("", ", compiled") for name in (form + compiled for form in forms)]
    rows = {
        f"{row['mechanism']} {tuple(row['shape'])}": {
            name: row["milliseconds"][name] / row["milliseconds"]["floor"]
            for name in names
            if name in row["milliseconds"]
        }
        for row in result["rows"]
        if row["mechanism"] in ("se", "eca", "cbam", "coordinate")
    }
    return dot_plot("Time of the gates", "forward + backward, multiple of the floor", rows, log=True)


def networks_plot(result: Result) -> str:
    """Return the plot of the training steps: what attention adds."""
    times = {
        (row["network"].removeprefix("resnet50 "), row["form"]): row["milliseconds"]
        for row in result["rows"]
        if row["phase"] == "training" and row["network"].startswith("resnet50")
    }
    none = times.pop(("none", "ours"))
    rows: dict[str, dict[str, float]] = {}
    for (name, form), time in times.items():
        rows.setdefault(name, {})[form] = 100 * (time / none - 1)
    return dot_plot("Training step of a ResNet-50", "added to a training step, %", rows)


#: Name of a picture on the page -> its result file, and how it is drawn.
PLOTS: Mapping[str, tuple[str, Callable[[Result], str]]] = {
    "performance-gates": ("mechanisms-cpu", gates_plot),
    "performance-networks": ("whole-networks", networks_plot),
}


def plots() -> dict[Path, str]:
    """Return the pictures of the page, by their files."""
    return {
        PAGE.with_name(f"{name}.svg"): draw(json.loads((FILES / f"{source}.json").read_text()))
        for name, (source, draw) in PLOTS.items()
    }


if __name__ == "__main__":
    PAGE.write_text(page(HEAD, SECTIONS))
    for file, drawing in plots().items():
        file.write_text(drawing)
