"""Write docs/results.md, the page of measured results, from the files in benchmarks/results.

python docs/results.py
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from saccade.results.leaderboard import p_value
from saccade.viz.report.text import separable

ROOT = Path(__file__).parent.parent
PAGE, FILES = ROOT / "docs" / "results.md", ROOT / "benchmarks" / "results"

HEAD = """# Results

<!-- written by docs/results.py from benchmarks/results -->

What was measured, with the command that repeats it. Every table is written from a result file, and the
file by the command. Compare figures within a table, not between machines."""

Result = Mapping[str, Any]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return a Markdown table, all columns but the first aligned to the right."""
    names = list(head)
    rule = ["---", *["---:"] * (len(names) - 1)]
    return ["", *(f"| {' | '.join(row)} |" for row in (names, rule, *rows)), ""]


def measured(result: Result) -> str:
    machine = result["hardware"]
    where = f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}"
    return f"`{result['command']}`, on {where}."


def white_patch(result: Result) -> list[str]:
    rows = (
        (
            f"`{row['attention']}`",
            interval(row["error"]),
            "" if row["difference"] is None else interval(row["difference"]),
            f"{row['latency_ms']:.1f} ms",
        )
        for row in sorted(result["leaderboard"], key=lambda row: row["error"]["mean"])
    )
    return [
        "Half of the photographs hold a white square; the network is told only whether there is one. "
        f"{result['leaderboard'][0]['seeds']} seeds, 95% intervals; differences are paired.",
        *table(("attention", "test error, %", "against none, points", "latency"), rows),
    ]


def moving_digits(result: Result) -> list[str]:
    def points(its: Result | None) -> str:
        if its is None:
            return ""
        share, chance = 100 * its["pointing"]["mean"], 100 * its["chance"]
        return f"{share:.0f} (chance {chance:.0f}), {its['polarity']} in {its['agree']}"

    rows = (
        (
            f"`{row['attention']}`",
            interval(row["error"]),
            ", ".join(
                f"{100 * run['error']:.1f}" for run in result["runs"] if run["attention"] == row["attention"]
            ),
            "" if row["difference"] is None else interval(row["difference"]),
            points(row["localization"]),
        )
        for row in sorted(result["leaderboard"], key=lambda row: row["error"]["mean"])
    )
    task, seeds = result["task"], result["leaderboard"][0]["seeds"]
    return [
        "A digit moves through a clip, and for a moment it is another one: which? The frames have to be "
        "compared. Neither their mean nor a mean under weights of each frame by itself, `temporal_pool`, "
        "can: such sums err in a quarter of the clips at least, as `saccade.data.moving_digits` shows. "
        f"Chance is an error of {100 * task['chance_error']:.0f}%. {task['train']:,} clips to train, "
        f"{task['test']:,} to test; {seeds} seeds, 95% intervals, cut at 0 and 100; differences are paired. "
        "Seeds lie far apart where a run has not left the level of chance within its epochs. *Points at the "
        "moment* is the share of clips in which the map's peak, or its lowest place if dark, lies on the "
        "other digit, of `temporal_pool` on its frames, with the number of seeds whose map has that sign.",
        *table(
            (
                "attention",
                "test error, %",
                "each seed",
                "against none, points",
                "points at the moment, %",
            ),
            rows,
        ),
    ]


def interval(its: Mapping[str, float]) -> str:
    return f"{100 * its['mean']:.1f} [{100 * its['low']:.1f}, {100 * its['high']:.1f}]"


def grid(what: str, *, localized: bool = False) -> Callable[[Result], list[str]]:
    """Return the section of a comparison, with what is to be said of its task."""

    def section(result: Result) -> list[str]:
        rows = sorted(result["leaderboard"], key=lambda row: row["error"]["mean"])
        seeds = {
            row["attention"]: [run["error"] for run in result["runs"] if run["attention"] == row["attention"]]
            for row in rows
        }
        chance = {name: chance_of(its, seeds["none"]) for name, its in seeds.items() if name != "none"}
        heads = ["attention", "test error, %", "each seed", "against none, points", "parameters", "MFLOPs"]
        cells = [
            [
                f"`{row['attention']}`",
                interval(row["error"]),
                ", ".join(f"{100 * error:.1f}" for error in seeds[row["attention"]]),
                "" if row["difference"] is None else interval(row["difference"]),
                f"{row['parameters']:,}",
                f"{row['flops'] / 1e6:,.1f}",
            ]
            for row in rows
        ]
        if localized:
            heads.append("on target, %")
            for row, line in zip(rows, cells, strict=True):
                line.append(on_target(row["localization"]))
        task, training = result["task"], result["recipe"]
        return [
            f"{what} {task['train']:,} training and {task['test']:,} test images, {training['epochs']} "
            f"epochs, {len(seeds['none'])} seeds; 95% intervals, differences paired by seed. " + said(chance),
            *table(heads, cells),
        ]

    return section


def chance_of(errors: list[float], plain: list[float]) -> float:
    """Return how likely errors differ as much by chance, paired by seed."""
    p = p_value([error - its for error, its in zip(errors, plain, strict=True)])
    return 1.0 if p is None else p


def said(chance: Mapping[str, float]) -> str:
    def names(its: Iterable[str]) -> str:
        return ", ".join(f"`{name}`" for name in its)

    real = separable(chance)
    alone = [name for name, p in chance.items() if p < 0.05 and name not in real]
    together = f"real at 5%: {names(real)}" if real else "none can be told from chance"
    also = f"; looked at alone, also {names(alone)} would be" if alone and real else ""
    also = f"; looked at alone, {names(alone)} could" if alone and not real else also
    return f"With {len(chance)} differences looked at together (Holm), {together}{also}."


def on_target(its: Result | None) -> str:
    if its is None:
        return ""
    precision, chance = 100 * its["precision"]["mean"], 100 * its["chance"]
    return f"{precision:.0f} (chance {chance:.0f}), {its['polarity']} in {its['agree']}"


def ram_mnist(result: Result) -> list[str]:
    curve = result["curve"]
    last = curve["epoch"][-1]
    rows = [(look, f"{100 * error:.2f}%") for look, error in result["test_error"].items()]
    rows.append(("the paper", f"{100 * result['paper']:.2f}%"))
    return [
        f"Digits read by {result['model']}, trained by reinforcement for {last} epochs "
        f"({result['seconds'] / 60:.0f} minutes); all {result['test_images']:,} test images, "
        f"seed {result['seed']}.",
        *table(("", "test error"), rows),
    ]


def ram_canvas(paper: str) -> Callable[[Result], list[str]]:
    def section(result: Result) -> list[str]:
        (row,) = result["rows"]
        where, recipe = row["localization"], row["recipe"]
        rows = [
            ("one look", f"{100 * row['one_look']:.2f}%"),
            ("mean of 10 looks", f"{100 * row['error']:.2f}%"),
            ("the paper, one look", paper),
        ]
        return [
            "Digits somewhere on 60 x 60 pixels, read by 8 glimpses of 12 x 12 at 3 scales, trained by "
            f"reinforcement for {recipe['epochs']} epochs on {row['images']['train']:,} canvases, always the "
            f"same (the paper draws new ones); {row['images']['test']:,} test images, one seed. "
            f"{100 * where['positive']['pointing']:.0f}% of the last look's maps peak inside the digit's box "
            f"(chance {100 * where['chance']:.0f}%).",
            *table(("", "test error"), rows),
        ]

    return section


def by_recipe(what: str, names: Mapping[str, str]) -> Callable[[Result], list[str]]:
    """Return the section of runs that differ in their recipes: a row for each start of a run's name."""

    def section(result: Result) -> list[str]:
        rows = []
        for start, name in names.items():
            runs = [row for row in result["rows"] if row["run"].startswith(start)]
            errors = [row["error"] for row in runs]
            rows.append(
                (
                    name,
                    f"{100 * statistics.mean(errors):.2f}",
                    ", ".join(f"{100 * error:.2f}" for error in errors),
                    f"{runs[0]['parameters']:,}",
                    f"{runs[0]['flops'] / 1e6:,.1f}",
                )
            )
        return [what, *table(("", "test error, %", "each seed", "parameters", "MFLOPs"), rows)]

    return section


def stn_mnist(result: Result) -> list[str]:
    rows = (
        (
            form,
            f"{result['parameters'][form]:,}",
            ", ".join(map(str, result["errors"][form])),
            f"{result['seconds'][form] / 60:.1f}",
        )
        for form in ("with", "without")
    )
    return [
        f"MNIST digits rotated by up to 90 degrees, {result['test_images']:,} test images, one number for "
        f"each seed. The net with the transformer makes {result['ratio']:.2f} times the errors.",
        *table(("transformer", "parameters", "wrong images", "minutes"), rows),
    ]


def attach_scale(result: Result) -> list[str]:
    def cell(row: Result, form: str) -> str:
        return f"{row[form]:,.2f}" + (", bit-identical" if row[f"{form}_bit_identical"] else "")

    rows = ((f"`{row['mechanism']}`", cell(row, "paper"), cell(row, "identity")) for row in result["rows"])
    return [
        "Standard deviation of the last feature map of a ResNet-50 "
        f"({result['network'].partition(', ')[2]}), "
        "relative to the network without attention, with each mechanism on all its residual branches.",
        *table(("", "the paper's start", "identity"), rows),
    ]


def fine_tune(result: Result) -> list[str]:
    forms = dict.fromkeys((row["attention"], row["identity"]) for row in result["rows"])

    def cell(attention: str, identity: bool, when: str) -> str:
        errors = [
            100 * row[when]
            for row in result["rows"]
            if (row["attention"], row["identity"]) == (attention, identity)
        ]
        return f"{statistics.mean(errors):.1f} ({min(errors):.1f} to {max(errors):.1f})"

    rows = (
        (
            f"`{attention}`",
            "" if attention == "none" else "identity" if identity else "the paper's",
            cell(attention, identity, "before"),
            cell(attention, identity, "after"),
        )
        for attention, identity in forms
    )
    gates = [abs(s) for row in result["rows"] for s in row["gates"]]
    seeds = len({row["seed"] for row in result["rows"]})
    return [
        f"A ResNet-20 is trained on {result['train_images']:,} images of CIFAR-10 for {result['epochs']} "
        "epochs; then attention is put on every residual branch, and the whole goes on training for "
        f"{result['fine_tuning']} more. Test error in percent on {result['test_images']:,} images, mean and "
        f"range over {seeds} seeds. From the identity nothing is lost at the start, and the gates do not "
        f"stay at zero: their size is {statistics.median(gates):.3f} in the median after fine-tuning.",
        *table(("", "start", "error as put in", "after fine-tuning"), rows),
    ]


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
        f"{result['what'].capitalize()}. Peers are torchvision's (`se`), timm's (`eca`, `cbam`, `sk`) and "
        "torch's (`multi_head`) modules of the same sizes.",
        *table(("", *columns), rows),
    ]


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
    return [
        f"{result['what'].capitalize()}; {result['threads']} threads. *Naive* is the same module with all "
        "its weights written out, left out where they would not fit.",
        *table(("", "map", "MB", "naive MB", "s", "naive s"), rows),
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
        "Images per second that the loader serves, as they are, with crops and flips, and as two views each "
        "in other colors (`method: contrastive`), against those that training steps alone learn from; "
        f"threads: {result['threads']}. The images lie in memory; those of the folder were read once before, "
        f"{reading:,.0f} a second.",
        *table(("", "network, batch", "loader", "crops and flips", "views", "training step"), rows),
    ]


SECTIONS: Mapping[str, tuple[str, Callable[[Result], list[str]]]] = {
    "white-patch": ("The white patch", white_patch),
    "white-patch-cifar10": (
        "The white patch at full size",
        grid("White squares on images of CIFAR-10, enlarged to 96 x 96.", localized=True),
    ),
    "cifar10-narrow": (
        "CIFAR-10 with a narrow network",
        grid(
            "ResNet-10, a quarter as wide as ResNet-18, with each attention at its paper's places: a smaller "
            "net, fewer images and fewer epochs than the papers', for a CPU. The recipe `cifar10`, with "
            "ResNet-18 and all images, wants a GPU and has not been run."
        ),
    ),
    "hard-item-white-patch": (
        "One place, drawn at random",
        grid(
            "White squares on photographs of 64 x 64. `hard_item` answers from a single place of the last "
            "map, which it draws: trained by REINFORCE, or through Gumbel noise. The error is that of ten "
            "looks; `none` takes the mean over all places.",
            localized=True,
        ),
    ),
    "moving-digits": ("Moving digits, in space and time", moving_digits),
    "ram-mnist": ("Recurrent attention on MNIST", ram_mnist),
    "ram-translated": ("Recurrent attention on translated digits", ram_canvas("1.84%")),
    "ram-cluttered": ("Recurrent attention on cluttered digits", ram_canvas("4.04%")),
    "ten-percent": (
        "A tenth of the labels",
        by_recipe(
            "The small CNN on MNIST, with the labels of 10% of the training images, the same in all rows "
            "of a seed. Contrastive pre-training sees all images, for 20 epochs, and no label.",
            {
                "scratch": "from random weights",
                "fine-tuned": "fine-tuned after contrastive pre-training",
                "probe": "a linear probe of the pre-trained network",
            },
        ),
    ),
    "vit-mnist": (
        "Vision transformers over patches and over channels",
        by_recipe(
            "MNIST, 8 epochs, three seeds; the recipes `vit-patches` and `vit-channels`. Both transformers "
            "have 16 tokens, 4 blocks, a width of 64: patches of 7 x 7 pixels, or groups of 4 channels of "
            "what the stages of a small CNN make of the image.",
            {"vit-patches": "patches of the image", "vit-channels": "channels of a CNN's features"},
        ),
    ),
    "stn-mnist": ("A spatial transformer on rotated MNIST", stn_mnist),
    "fine-tune": ("Attention in a trained network", fine_tune),
    "attach-scale": ("The scale of features at the start", attach_scale),
    "mechanisms-cpu": ("Speed on a CPU", mechanisms),
    "loader-cpu": ("The loader against the training step", loader),
    "pairwise-cpu": ("Memory and time of attention between positions", pairwise),
}


def picture(name: str, result: Result) -> list[str]:
    """Return the lines of a picture of the maps, if there is one: `benchmarks/gallery.py`."""
    file = PAGE.with_name(f"{name}.jpg")
    told = "Test images, and the places at which the network looks, in their order"
    if "leaderboard" in result:
        told = "Test images, first those on which the attentions disagree, and over them where each looks"
    return [f"![{told}]({file.name})", ""] if file.exists() else []


def page() -> str:
    lines = [HEAD]
    for name, (title, section) in SECTIONS.items():
        result = json.loads((FILES / f"{name}.json").read_text())
        lines += ["", f"## {title}", "", *section(result), *picture(name, result), measured(result)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
