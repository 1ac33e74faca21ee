"""Write docs/results.md, the page of measured results, from the files in benchmarks/results.

python docs/results.py
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from saccade.results import confidence_interval, significant

ROOT = Path(__file__).parent.parent
PAGE, FILES = ROOT / "docs" / "results.md", ROOT / "benchmarks" / "results"

HEAD = """# Results

<!-- written by docs/results.py from benchmarks/results -->

Measured results, each with the command that reproduces it. Every table is generated from a result file, which
the command writes. Compare numbers within a table, not between machines."""

PROTOCOL = "brackets are 95% intervals, differences are paired by seed"

Result = Mapping[str, Any]
Section = Callable[[Result], list[str]]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return a Markdown table. All columns but the first are aligned to the right."""
    names = list(head)
    rule = ["---", *["---:"] * (len(names) - 1)]
    return ["", *(f"| {' | '.join(row)} |" for row in (names, rule, *rows)), ""]


def measured(result: Result) -> str:
    machine = result["hardware"]
    where = f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}"
    return f"`{result['command']}`, on {where}."


def board(result: Result, columns: Mapping[str, Callable[[Result], str]]) -> list[str]:
    """Return the leaderboard: attention, error, difference to `none`, and further columns of a row."""
    rows = sorted(result["leaderboard"], key=lambda row: row["error"]["mean"])
    cells = (
        [
            f"`{row['attention']}`",
            interval(row["error"]),
            interval(row["difference"]),
            *(cell(row) for cell in columns.values()),
        ]
        for row in rows
    )
    return table(("attention", "test error, %", "vs none, points", *columns), cells)


def each_seed(result: Result) -> Callable[[Result], str]:
    def cell(row: Result) -> str:
        runs = [run for run in result["runs"] if run["attention"] == row["attention"]]
        return ", ".join(f"{100 * run['error']:.1f}" for run in runs)

    return cell


def interval(value: Mapping[str, float] | None) -> str:
    if value is None:
        return ""
    return f"{100 * value['mean']:.1f} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def on_target(measure: str) -> Callable[[Result], str]:
    """Return a column of a localization score, with chance, polarity, and the seeds that have it."""

    def cell(row: Result) -> str:
        score = row["localization"]
        if score is None:
            return ""
        mean, chance = 100 * score[measure]["mean"], 100 * score["chance"]
        return f"{mean:.0f} (chance {chance:.0f}), {score['polarity']} in {score['agree']}"

    return cell


def white_patch(result: Result) -> list[str]:
    return [
        "Half of the photographs contain a white square. The label says only whether there is one. "
        f"{result['leaderboard'][0]['seeds']} seeds; {PROTOCOL}.",
        *board(result, {"latency": lambda row: f"{row['latency_ms']:.1f} ms"}),
    ]


def moving_digits(result: Result) -> list[str]:
    task, seeds = result["task"], result["leaderboard"][0]["seeds"]
    columns = {"each seed": each_seed(result), "peak on the other digit, %": on_target("pointing")}
    return [
        "A digit moves through a clip and is replaced by another digit for a moment. The label is the other "
        "digit, so frames have to be compared. A mean over frames is not sufficient, and neither is a mean "
        "with weights that depend on each frame alone, such as `temporal_pool`: their error is at least a "
        "quarter, see `saccade.data.moving_digits`. Chance is an error of "
        f"{100 * task['chance_error']:.0f}%. {task['train']:,} training and {task['test']:,} test clips, "
        f"{seeds} seeds; {PROTOCOL}, and intervals are clipped to 0 and 100. Seeds differ widely where a "
        "run has not left the chance level within its epochs. *Peak on the other digit* is the fraction "
        "of clips in which the maximum of the map (the minimum, for a negative polarity) is on the other "
        "digit (for `temporal_pool`: on its frames), with the number of seeds that have this polarity.",
        *board(result, columns),
    ]


def membrane(result: Result) -> list[str]:
    task = result["task"]

    def score(name: str) -> Callable[[Result], str]:
        return lambda row: interval(row["segmentation"][name])

    columns = {
        "Dice, %": score("dice"),
        "boundaries, %": score("boundary_f1"),
        "parameters": lambda row: f"{row['parameters']:,}",
        "on target, %": on_target("precision"),
    }
    tested = {row["attention"]: row["p_value"] for row in result["leaderboard"] if row["p_value"] is not None}
    return [
        "Electron micrographs of 512 x 512 pixels with the membranes of cells (ISBI 2012), 20 for training, "
        f"4 for validation and 6 for the test, cut into tiles of 128 pixels: {task['train']} / "
        f"{task['validation']} / {task['test']} tiles. A U-Net of width "
        f"{result['recipe']['backbone'].partition('width=')[2].partition(',')[0]} is trained for "
        f"{result['recipe']['epochs']} epochs; `attention_gate` is on its skip connections, the others are "
        f"after each block of its decoder, but `multi_head` only after the first two, on maps of 16 x 16 and "
        f"32 x 32. Test error is 1 - mean IoU. "
        f"{result['leaderboard'][0]['seeds']} seeds; {PROTOCOL}. *On target* is the average precision of the "
        f"map of the last attention for the membranes. {holm(tested)}",
        *board(result, columns),
    ]


def grid(description: str, *, localized: bool = False) -> Callable[[Result], list[str]]:
    """Return the section of a comparison, with a description of its task."""

    def section(result: Result) -> list[str]:
        columns: dict[str, Callable[[Result], str]] = {
            "each seed": each_seed(result),
            "parameters": lambda row: f"{row['parameters']:,}",
            "MFLOPs": lambda row: f"{row['flops'] / 1e6:,.1f}",
        }
        if localized:
            columns["on target, %"] = on_target("precision")
        task, rows = result["task"], result["leaderboard"]
        p_values = {row["attention"]: row["p_value"] for row in rows if row["p_value"] is not None}
        return [
            f"{description} {task['train']:,} training and {task['test']:,} test images, "
            f"{result['recipe']['epochs']} epochs, {rows[0]['seeds']} seeds; {PROTOCOL}. {holm(p_values)}",
            *board(result, columns),
        ]

    return section


def holm(p_values: Mapping[str, float]) -> str:
    """Say which differences are significant at 5% with and without Holm's correction."""

    def listed(names: Iterable[str]) -> str:
        return ", ".join(f"`{name}`" for name in names)

    names = significant(p_values)
    others = [name for name, p in p_values.items() if p < 0.05 and name not in names]
    comparisons = f"{len(p_values)} comparison{'s' if len(p_values) != 1 else ''}"
    sentence = f"After Holm correction for {comparisons}, significant at 5%: {listed(names) or 'none'}"
    return sentence + (f"; without correction {'also ' if names else ''}{listed(others)}." if others else ".")


def ram_mnist(result: Result) -> list[str]:
    curve = result["curve"]
    last = curve["epoch"][-1]
    rows = [(looks, f"{100 * error:.2f}%") for looks, error in result["test_error"].items()]
    rows.append(("paper", f"{100 * result['paper']:.2f}%"))
    return [
        f"Recurrent attention with {result['model']}, trained with REINFORCE for {last} epochs "
        f"({result['seconds'] / 60:.0f} minutes). Evaluated on all {result['test_images']:,} test images; "
        f"seed {result['seed']}.",
        *table(("", "test error"), rows),
    ]


def ram_canvas(paper: str) -> Callable[[Result], list[str]]:
    def section(result: Result) -> list[str]:
        rows = result["rows"]
        recipe, images = rows[0]["recipe"], rows[0]["images"]
        pointing = statistics.mean(row["localization"]["positive"]["pointing"] for row in rows)

        def line(name: str, looks: str) -> tuple[str, ...]:
            errors = [row["looks"][looks] for row in rows]
            values = confidence_interval(errors, least=0)
            bounds = [bound for bound in (values["low"], values["high"]) if bound is not None]
            each = ", ".join(f"{100 * error:.2f}" for error in errors)
            return name, f"{100 * values['mean']:.2f}", " to ".join(f"{100 * b:.2f}" for b in bounds), each

        curves = zip(*(row["validation_errors"] for row in rows), strict=True)
        means = [100 * statistics.mean(errors) for errors in curves]
        epochs = [epoch for epoch in (1, 5, 10, 20, 40, 60, 80) if epoch <= len(means)]
        return [
            "Digits at random positions on 60 x 60 pixels, 8 glimpses of 12 x 12 at 3 scales, trained with "
            f"REINFORCE for {recipe['epochs']} epochs on {images['train']:,} canvases, new in "
            f"each epoch; {images['test']:,} test images; seeds "
            f"{', '.join(str(row['recipe'].get('seed', 0)) for row in rows)}. "
            f"{100 * pointing:.0f}% of the maps of the last look have their maximum inside the bounding box "
            f"of the digit (chance {100 * rows[0]['localization']['chance']:.0f}%).",
            *table(
                ("test error, %", "mean", "95% interval", "each seed"),
                [
                    line("one look", "1"),
                    line("mean of 10 looks", "10"),
                    ("paper, one look", paper, "", ""),
                ],
            ),
            *table(
                ("epoch", *map(str, epochs)),
                [("validation error, %", *(f"{means[epoch - 1]:.2f}" for epoch in epochs))],
            ),
        ]

    return section


def by_recipe(description: str, names: Mapping[str, str]) -> Callable[[Result], list[str]]:
    """Return the section of runs with different recipes: one row per prefix of the names of the runs."""

    def section(result: Result) -> list[str]:
        rows = []
        for prefix, name in names.items():
            runs = [row for row in result["rows"] if row["run"].startswith(prefix)]
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
        return [description, *table(("", "test error, %", "each seed", "parameters", "MFLOPs"), rows)]

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
        f"MNIST digits rotated by up to 90 degrees, {result['test_images']:,} test images, one number per "
        f"seed. The network with the transformer makes {result['ratio']:.2f} times as many errors as the one "
        "without.",
        *table(("transformer", "parameters", "misclassified images", "minutes"), rows),
    ]


def attach_scale(result: Result) -> list[str]:
    def cell(row: Result, form: str) -> str:
        return f"{row[form]:,.2f}" + (", bit-identical" if row[f"{form}_bit_identical"] else "")

    rows = ((f"`{row['mechanism']}`", cell(row, "paper"), cell(row, "identity")) for row in result["rows"])
    return [
        "Standard deviation of the last feature map of a ResNet-50 "
        f"({result['network'].partition(', ')[2]}), relative to the network without attention. Each "
        "mechanism is attached to all residual branches, initialized as in its paper or as an identity.",
        *table(("", "paper initialization", "identity"), rows),
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
            "" if attention == "none" else "identity" if identity else "paper",
            cell(attention, identity, "before"),
            cell(attention, identity, "after"),
        )
        for attention, identity in forms
    )
    gates = [abs(s) for row in result["rows"] for s in row["gates"]]
    seeds = len({row["seed"] for row in result["rows"]})
    return [
        f"A ResNet-20 is trained on {result['train_images']:,} images of CIFAR-10 for {result['epochs']} "
        "epochs. Then attention is attached to every residual branch, and the model is fine-tuned for "
        f"{result['fine_tuning']} more epochs. Test error in percent on {result['test_images']:,} images, "
        f"mean and range over {seeds} seeds. With identity initialization the error does not change when "
        "attention is attached, and the gates move away from zero: their median absolute value after "
        f"fine-tuning is {statistics.median(gates):.3f}.",
        *table(("", "initialization", "after attaching", "after fine-tuning"), rows),
    ]


def explanations(result: Result) -> list[str]:
    rows = result["rows"]
    classes = list(dict.fromkeys((row["class"], row["probability"]) for row in rows))
    scores = {(row["method"], row["class"]): f"{row['auc_gain']:+.3f}, {row['road']:+.3f}" for row in rows}
    return [
        f"{result['network']}. The two most probable classes of two photographs of scikit-image, with their "
        f"probability, explained by each method of `grad_cam` at layer `{result['layer']}`. Two scores: the "
        "gain of deletion and insertion over a random order, and ROAD; 0 is chance.",
        "",
        *table(
            ["method", *(f"{label} ({probability:.2f})" for label, probability in classes)],
            (
                [f"`{method}`", *(scores[method, label] for label, _ in classes)]
                for method in dict.fromkeys(row["method"] for row in rows)
            ),
        ),
    ]


def networks(result: Result) -> list[str]:
    def explained(row: Result) -> str:
        names = [name for name in ("relevance", "legrad") if row[name] is True]
        return ", ".join(f"`{name}`" for name in names)

    rows = result["rows"]
    ran, seen = sum(row["operations"] for row in rows), sum(row["pairs"] for row in rows)
    return [
        f"{len(rows)} networks of other libraries with random weights, most of them small. *Ran* counts "
        "fused attention calls and softmaxes over keys in a forward pass, *recorded* the maps of pairs of "
        "positions, *other maps* those of channels and gates, *unseen* the layers that `maps.unseen` names. "
        "Linear attention, `flex_attention` and softmaxes of three axes are recorded, and *ran* does not "
        f"count them. In all: {ran} ran, {seen} recorded, {sum(row['unplaced'] for row in rows)} of them "
        "within windows whose places in the image are unknown. The outputs are the same bit for bit with and "
        f"without `record` in {sum(row['identical'] for row in rows)} of {len(rows)} networks. *Look* is the "
        "method that `sc.look` chooses; *explained by* lists the explanations by attention that a network "
        "has.",
        *table(
            ["network", "ran", "recorded", "other maps", "unseen", "look", "explained by"],
            (
                [
                    f"{row['library']} {row['network']}",
                    *(str(row[key]) for key in ("operations", "pairs", "gates", "unseen")),
                    str(row["look"]),
                    explained(row),
                ]
                for row in rows
            ),
        ),
    ]


def attach_networks(result: Result) -> list[str]:
    rows = result["rows"]
    libraries = {row["library"]: [each for each in rows if each["library"] == row["library"]] for row in rows}
    steps = ("identical", "trains", "fused", "converted", "reloaded", "detached")

    def cells(name: str, part: list[Result]) -> list[str]:
        default = sum(row["refusal"] is None for row in part)
        done = (sum(bool(row.get(step)) for row in part) for step in steps)
        places = sum(row.get("attached", 0) for row in part)
        return [name, str(len(part)), str(default), str(places), *map(str, done)]

    refused = [f"{row['library']} {row['network']}" for row in rows if row["refusal"] is not None]
    return [
        f"{len(rows)} networks of other libraries with random weights. *Default* counts those to which "
        '`sc.attach(model, "cbam", example_inputs=inputs)` attaches as it stands; the others '
        f"({', '.join(refused)}) hold tokens without a known grid and get `skip_unfit=True`, which attaches "
        "where it fits. *Places* is the attached attention. *Identical*: the output is the same bit for bit. "
        "*Trains*: gates change in two steps. *Fused*: `sc.fuse` keeps attention and output. *Converted*: "
        "attention is repaired after norms became `SyncBatchNorm`. *Reloaded*: a network attached anew "
        "computes the same with the saved weights. *Detached*: the keys are the original ones.",
        *table(
            ["library", "networks", "default", "places", *steps],
            [*(cells(name, part) for name, part in libraries.items()), cells("all", rows)],
        ),
    ]


def search(result: Result) -> list[str]:
    rows = result["results"]
    budgets = list(rows[0]["found"])
    return [
        f"{result['studies']} simulated studies of {result['mechanisms']} mechanisms at {result['places']} "
        "places with a known, synthetic truth: the share in which the best candidate within one standard "
        f"error ({result['standard_error']}) is among the finalists, by the number of runs. See "
        "[Search](search.md).",
        *table(
            ["strategy", *(f"{budget} runs" for budget in budgets)],
            ([row["strategy"], *(f"{100 * row['found'][b]:.0f}%" for b in budgets)] for row in rows),
        ),
    ]


def faults(result: Result) -> list[str]:
    cells = (
        (
            row["text"],
            f"{row['passed']:,} of {row['rounds']:,}",
            f"{row['seconds'] / 60:.0f} min" if row["seconds"] >= 60 else f"{row['seconds']} s",
        )
        for row in result["rows"].values()
    )
    return [
        "What happens to a process, and how often the same command, run again, ended with the results of an "
        "uninterrupted run, digit for digit. A damaged file counts if it is read or refused with one "
        "sentence, and starts no program and no connection. Memory counts if it grows by less than 8 MB in "
        "the later half of the rounds. The machine did other work at the same time, and the faults were run "
        "one by one (`--only`), that of two processes with `--rounds 10`.",
        *table(("fault", "recovered", "time"), cells),
    ]


def catalog(result: Result) -> list[str]:
    sides = [size["side"] for size in result["rows"][0]["sizes"]]

    def name(row: Result) -> str:
        return f"`{':'.join([row['mechanism'], *(f'{k}={v}' for k, v in row['options'].items())])}`"

    def sizes(row: Result, measure: Callable[[Result], str]) -> str:
        return " / ".join(map(measure, row["sizes"]))

    def start(value: str | float | None) -> str:
        return "" if value is None else value if isinstance(value, str) else f"{value:.2f}"

    columns: Mapping[str, Callable[[Result], str]] = {
        "parameters": lambda row: f"{row['parameters']:,}",
        "MFLOPs": lambda row: sizes(row, lambda size: f"{size['flops'] / 1e6:.2f}"),
        "ms": lambda row: sizes(row, lambda size: f"{size['milliseconds']:.2f}"),
        "MB": lambda row: sizes(row, lambda size: f"{size['megabytes']:.1f}"),
        "start": lambda row: start(row["start"]),
        "map": lambda row: ", ".join(f"`{kind}`" for kind in row["maps"]),
        "dims": lambda row: ", ".join(map(str, row["dims"])),
        "equal to": lambda row: ", ".join(row["proven"]),
    }
    return [
        f"One image with {result['channels']} channels of {' / '.join(f'{s} x {s}' for s in sides)}, or as "
        f"many positions of a sequence, float32, threads: {result['threads']}. FLOPs and latency are of a "
        "forward pass, memory is the peak of a forward and backward pass beyond the input. *Start* is the "
        "output of a new module: the identity, or its standard deviation relative to that of the input. "
        "*Dims* are the numbers of spatial axes of features that it fits without further options. *Equal to* "
        "lists what the tests compare it with, values and gradients: the formula written out, and modules of "
        "other libraries.",
        *table(
            ["", *columns], ([name(row), *(cell(row) for cell in columns.values())] for row in result["rows"])
        ),
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
            "ResNet-10, a quarter as wide as ResNet-18, with each attention at the places of its paper. The "
            "network, the number of images and the number of epochs are smaller than in the papers, so that "
            "it trains on a CPU. The recipe `cifar10`, with ResNet-18 and all images, needs a GPU and has "
            "not been run."
        ),
    ),
    "hard-item-white-patch": (
        "Hard attention to one position",
        grid(
            "White squares on photographs of 64 x 64. `hard_item` samples a single position of the last "
            "feature map and predicts from it, trained with REINFORCE or with Gumbel noise. The error is "
            "that of ten samples; `none` averages all positions.",
            localized=True,
        ),
    ),
    "moving-digits": ("Moving digits, in space and time", moving_digits),
    "ram-mnist": ("Recurrent attention on MNIST", ram_mnist),
    "ram-translated": ("Recurrent attention on translated digits", ram_canvas("1.84")),
    "ram-cluttered": ("Recurrent attention on cluttered digits", ram_canvas("4.04")),
    "ten-percent": (
        "Ten percent of the labels",
        by_recipe(
            "The small CNN on MNIST with the labels of 10% of the training images, the same images in all "
            "rows of a seed. Contrastive pre-training uses all images for 20 epochs, without labels.",
            {
                "scratch": "random initialization",
                "fine-tuned": "fine-tuned after contrastive pre-training",
                "probe": "linear probe of the pre-trained network",
            },
        ),
    ),
    "vit-mnist": (
        "Vision transformers over patches and over channels",
        by_recipe(
            "MNIST, 8 epochs, three seeds; recipes `vit-patches` and `vit-channels`. Both transformers have "
            "16 tokens, 4 blocks and a width of 64. A token is a patch of 7 x 7 pixels, or a group of 4 "
            "channels of the feature map of a small CNN.",
            {"vit-patches": "patches of the image", "vit-channels": "channels of a CNN feature map"},
        ),
    ),
    "stn-mnist": ("Spatial transformer on rotated MNIST", stn_mnist),
    "fine-tune": ("Attention in a trained network", fine_tune),
    "attach-scale": ("The scale of features at the start", attach_scale),
    "league-white-patch": (
        "All drop-in mechanisms on one task",
        grid(
            "White squares on images of CIFAR-10, enlarged to 64 x 64: every mechanism that fits anywhere, "
            "after the same convolution of the small network. It shows which mechanisms help this network "
            "find a small bright object, and at which cost. It does not rank them for other tasks, networks "
            "or places, and with three seeds only large differences are significant.",
            localized=True,
        ),
    ),
    "catalog-cpu": ("Every mechanism", catalog),
    "membrane": ("Membranes: segmentation with a U-Net", membrane),
    "search": ("Runs that a search needs", search),
    "networks": ("Attention of other libraries", networks),
    "attach-networks": ("Attention in networks of other libraries", attach_networks),
    "explanations": ("Explanations of a class", explanations),
    "faults": ("Faults", faults),
}


def picture(name: str, result: Result) -> list[str]:
    """Return the lines of the picture of the maps, if there is one; see `benchmarks/screenshot.py`."""
    file = PAGE.with_name(f"{name}.jpg")
    alt = (
        "Photographs with the maps of each method" if name == "explanations" else "Test images with fixations"
    )
    if "leaderboard" in result:
        alt = "Test images with attention maps, first those on which the models disagree"
    return [f"![{alt}]({file.name})", ""] if file.exists() else []


def page(head: str = HEAD, sections: Mapping[str, tuple[str, Section]] = SECTIONS) -> str:
    """Return a page of result files, each with a table and the command that writes it."""
    lines = [head]
    for name, (title, section) in sections.items():
        if not (FILES / f"{name}.json").exists():  # a benchmark that has not been run
            continue
        result = json.loads((FILES / f"{name}.json").read_text())
        shown = [*section(result), *picture(name, result)]
        end = [measured(result)] if not shown[-1] else ["", measured(result)]
        lines += ["", f"## {title}", "", *shown, *end]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
