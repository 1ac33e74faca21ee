"""Assembly of the report of a comparison."""

from __future__ import annotations

import json
from pathlib import Path

from saccade.files import atomic_write
from saccade.grammar import shorten, split_options
from saccade.results import (
    BASELINE,
    ComparisonResults,
    caution,
    consequence,
    finding,
    main_map,
    number,
    read_comparison,
    signed,
    verdict,
)
from saccade.viz.html import render_page
from saccade.viz.report import charts, gallery, table


def write_report(folder: Path, results: ComparisonResults | None = None, planned: int = 0) -> Path:
    """Write `report.html`, one self-contained page, next to `results.json`.

    The page is replaced atomically.

    Args:
        folder: Folder of a comparison.
        results: Results of the runs so far; by default, those of `results.json`.
        planned: Number of runs of the complete comparison. If there are fewer so far, the page says so.

    Returns:
        Path of the page.

    Raises:
        BadRun: The results cannot be read, or the page cannot be written.
    """
    target = folder / "report.html"
    page = render_report(folder, read_comparison(folder) if results is None else results, planned)
    with atomic_write(target) as file:
        file.write(page.encode("utf-8", "replace"))  # names may hold lone surrogates
    return target


def render_report(folder: Path, results: ComparisonResults, planned: int = 0) -> str:
    """Return the report of a comparison as HTML, see `write_report`."""
    rows = results["leaderboard"]
    names = [row["attention"] for row in rows]
    labels = shorten(names)
    sources = gallery.read_sources(folder, results)
    images, packed = (
        gallery.pack_gallery(sources, results["task"]["classes"], names) if sources else ([], None)
    )
    panels = (
        charts.curves("Validation error", "val_error", results["runs"], names, "%"),
        charts.curves("Training loss", "train_loss", results["runs"], names),
    )
    curves = [chart for chart in panels if chart]
    return render_page(
        "report",
        data={
            "labels": labels,
            "curves": [{key: chart[key] for key in ("unit", "epochs", "lines")} for chart in curves],
            "gallery": packed,
        },
        filters=(
            number,
            signed,
            table.count,
            table.duration,
            table.pointing_words,
            split_options,
            verdict,
            main_map,
        ),
        results=results,
        planned=planned,
        names=names,
        labels=labels,
        segmented=results["task"].get("segmentation", False),
        sentences=[text for text in (finding(rows), consequence(rows), caution(rows)) if text],
        colors=_colors(names),
        removals=charts.removals(results),
        best=table.best(results),
        strips=table.strips(results),
        curves=curves,
        relative=table.relative_costs(rows),
        scatters=[
            charts.scatter("flops", "FLOPs per image", rows, labels),
            charts.scatter("latency_ms", "Latency, ms", rows, labels),
            charts.scatter("parameters", "Parameters", rows, labels),
        ],
        images=images,
        gallery=packed,
        missing=[n for i, n in enumerate(names) if i not in {source.attention for source in sources}],
        recipe=json.dumps(results["recipe"], indent=2, ensure_ascii=False),
    )


def _colors(names: list[str]) -> list[str]:
    """Return a CSS class per attention: gray for the baseline, eight hues, then the hues dashed."""
    others = [name for name in names if name != BASELINE]
    hues = {name: f"hue{1 + i % 8}{' dashed' if i >= 8 else ''}" for i, name in enumerate(others)}
    return [hues.get(name, "hue0") for name in names]
