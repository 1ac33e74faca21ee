"""Assemble the page and put it in its place."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from saccade.files import atomic_write
from saccade.grammar import shorten
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
from saccade.viz.report import charts, gallery, removal, table, text

_TEMPLATES = files("saccade.viz") / "static"


def write(folder: Path) -> Path:
    """Write `report.html` beside `results.json` and return its path.

    The page appears by rename, so a reader sees the old one or the new one, never half of one.

    Raises `BadRun` if the results cannot be read or the page cannot be written.
    """
    html = render(folder)
    target = folder / "report.html"
    with atomic_write(target) as file:
        file.write(html.encode("utf-8", "replace"))
    return target


def render(folder: Path) -> str:
    """Return the page of a comparison as one string of HTML."""
    results = read_comparison(folder)
    names = [row["attention"] for row in results["leaderboard"]]
    shots: list[gallery.Shot] = []
    shown = None
    if found := gallery.sources(folder, results):
        shots, shown = gallery.pack(found, results["task"]["classes"], names)
    curves = [
        chart
        for chart in (
            charts.curves("Validation error", "val_error", results["runs"], names, "%"),
            charts.curves("Training loss", "train_loss", results["runs"], names),
        )
        if chart
    ]
    labels = shorten(names)
    scatters = [
        charts.scatter("flops", "FLOPs per image", results["leaderboard"], labels),
        charts.scatter("latency_ms", "Latency, ms", results["leaderboard"], labels),
        charts.scatter("parameters", "Parameters", results["leaderboard"], labels),
    ]
    script = _read("report.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            finding=finding(results["leaderboard"]),
            caution=caution(results["leaderboard"]),
            consequence=consequence(results["leaderboard"]),
            localized=any(row["localization"] for row in results["leaderboard"]),
            main_maps=[main_map(row) for row in results["leaderboard"]],
            removals=removal.removals(results),
            best=table.best(results),
            strips=table.strips(results),
            labels=labels,
            colors=_colors(names),
            curves=curves,
            scatters=scatters,
            shots=shots,
            gallery=shown,
            missing=[n for i, n in enumerate(names) if i not in {source.attention for source in found}],
            island={
                "names": names,
                "labels": labels,
                "curves": [asdict(chart) for chart in curves],
                "gallery": shown,
            },
            recipe=json.dumps(results["recipe"], indent=2, ensure_ascii=False),
            charts=charts,
            removal=removal,
            style=Markup(_read("report.css")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("saccade.viz"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters.update(
        number=number, signed=signed, count=text.count, duration=text.duration, verdict=verdict
    )
    environment.filters.update(breakable=_breakable, prose=_prose)
    return environment


def _breakable(name: str) -> Markup:
    """Escape a name and let its line break after a comma or a colon."""
    return Markup(re.sub("([,:])", r"\1<wbr>", str(escape(name))))


def _prose(sentence: str) -> Markup:
    """Escape a sentence and set the names in it, which stand between backticks, as code."""
    parts = (
        Markup("<code>{}</code>").format(_breakable(part)) if index % 2 else escape(part)
        for index, part in enumerate(sentence.split("`"))
    )
    return Markup("").join(parts)


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _colors(names: list[str]) -> list[str]:
    """Return a CSS class per attention: gray for the baseline, then eight hues, then the hues dashed."""
    classes, hue = [], 0
    for name in names:
        if name == BASELINE:
            classes.append("hue0")
        else:
            classes.append(f"hue{1 + hue % 8}" + (" dashed" if hue >= 8 else ""))
            hue += 1
    return classes
