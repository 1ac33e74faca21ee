"""Assembly of the report of a comparison."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from saccade.files import atomic_write
from saccade.grammar import shorten, split_options
from saccade.results import (
    BASELINE,
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
from saccade.viz.report import charts, gallery, removal, table, text

#: What a heat map shows, by kind or variant of the map.
_ABOUT = {
    "spatial": "weight per position",
    "channel": "energy of the weighted features; a channel gate has no spatial extent",
    "branch": "energy of the weighted branches",
    "pairwise": "attention received",
    "class token": "attention of the class token",
    "window": "attention received within windows",
    "grid": "density of the sampling grid",
    "fixation": "number of fixations",
    "temporal": "energy of the frames, weighted by their gates",
}


def write_report(folder: Path) -> Path:
    """Write `report.html`, one self-contained page, next to `results.json`.

    The page is replaced atomically.

    Args:
        folder: Folder of a finished comparison.

    Returns:
        Path of the page.

    Raises:
        BadRun: The results cannot be read, or the page cannot be written.
    """
    target = folder / "report.html"
    page = render_report(folder)
    with atomic_write(target) as file:
        file.write(page.encode("utf-8", "replace"))  # names may hold lone surrogates
    return target


def render_report(folder: Path) -> str:
    """Return the report of a comparison as HTML."""
    results = read_comparison(folder)
    rows = results["leaderboard"]
    names = [row["attention"] for row in rows]
    labels = shorten(names)
    sources = gallery.read_sources(folder, results)
    images, packed = (
        gallery.pack_gallery(sources, results["task"]["classes"], names) if sources else ([], None)
    )
    curves = [
        chart
        for chart in (
            charts.curves("Validation error", "val_error", results["runs"], names, "%"),
            charts.curves("Training loss", "train_loss", results["runs"], names),
        )
        if chart
    ]
    return render_page(
        "report",
        data={
            "labels": labels,
            "curves": [asdict(chart) for chart in curves],
            "gallery": packed,
        },
        filters={
            "number": number,
            "signed": signed,
            "count": text.count,
            "duration": text.duration,
            "verdict": verdict,
            "split_options": split_options,
        },
        results=results,
        names=names,
        labels=labels,
        colors=_colors(names),
        finding=finding(rows),
        caution=caution(rows),
        consequence=consequence(rows),
        localized=any(row["localization"] for row in rows),
        main_maps=[main_map(row) for row in rows],
        removals=removal.removals(results),
        best=table.best(results),
        strips=table.strips(results),
        curves=curves,
        scatters=[
            charts.scatter("flops", "FLOPs per image", rows, labels),
            charts.scatter("latency_ms", "Latency, ms", rows, labels),
            charts.scatter("parameters", "Parameters", rows, labels),
        ],
        images=images,
        gallery=packed,
        about=_ABOUT,
        missing=[n for i, n in enumerate(names) if i not in {source.attention for source in sources}],
        recipe=json.dumps(results["recipe"], indent=2, ensure_ascii=False),
        charts=charts,
        removal=removal,
    )


def _colors(names: list[str]) -> list[str]:
    """Return a CSS class per attention: gray for the baseline, eight hues, then the hues dashed."""
    classes, hue = [], 0
    for name in names:
        if name == BASELINE:
            classes.append("hue0")
        else:
            classes.append(f"hue{1 + hue % 8}" + (" dashed" if hue >= 8 else ""))
            hue += 1
    return classes
