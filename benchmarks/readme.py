"""Write the table and the picture of the README from a comparison.

    python benchmarks/readme.py demo     copy demo/results.json to benchmarks/results/white-patch.json,
                                         take the screenshot of demo/report.html, and update README.md
    python benchmarks/readme.py          update README.md from the copy

The screenshot requires playwright and Chromium.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from saccade.files import write_json
from saccade.results import ComparisonResults, Interval, Row, read_comparison
from screenshot import screenshot

ROOT = Path(__file__).parent.parent
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "white-patch.jpg"
RESULT = ROOT / "benchmarks" / "results" / "white-patch.json"
BEGIN, END = "<!-- table: benchmarks/readme.py writes it -->", "<!-- end of table -->"


def table(summary: ComparisonResults) -> str:
    """Return the leaderboard as Markdown, with a paragraph on the measurement."""
    lines = [
        "| attention | test error | vs none | on target | parameters | MFLOPs | latency |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(summary["leaderboard"], key=lambda row: -row["error"]["mean"]):
        cells = (
            f"`{row['attention']}`",
            f"{100 * row['error']['mean']:.1f}% {span(row['error'])}",
            ""
            if row["difference"] is None
            else f"{100 * row['difference']['mean']:+.1f} {span(row['difference'])}",
            on_target(row),
            f"{row['parameters']:,}",
            f"{row['flops'] / 1e6:.1f}",
            f"{row['latency_ms']:.1f} ms",
        )
        lines.append(f"| {' | '.join(cells)} |")
    machine, task = summary["hardware"], summary["task"]
    minutes = sum(run["train_seconds"] for run in summary["runs"]) / 60
    lines += [
        "",
        f"`{summary['command']}`: {summary['leaderboard'][0]['seeds']} seeds, {task['train']:,} training and "
        f"{task['test']:,} test images from different photographs. Brackets are 95% intervals over seeds; "
        "differences are paired, in percentage points. *On target* is the average precision of the pixels of "
        "the map on test images with a square, for the map (positive) or the inverted map (negative). "
        f"Measured on {machine['gpu'] or machine['cpu']}, {machine['cores']} cores, "
        f"torch {machine['torch']}; "
        f"{minutes:.1f} minutes of training in all.",
    ]
    return "\n".join(lines)


def span(interval: Interval) -> str:
    low, high = interval["low"], interval["high"]
    return "" if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"


def on_target(row: Row) -> str:
    score = row["localization"]
    if score is None:
        return ""
    return f"{score['precision']['mean']:.2f} {score['polarity']} (chance {score['chance']:.2f})"


def updated(readme: str, summary: ComparisonResults) -> str:
    """Return the README with the table of a comparison."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table(summary)}\n{END}{rest.split(END)[1]}"


def main() -> None:
    if len(sys.argv) > 1:
        comparison = Path(sys.argv[1])
        write_json(RESULT, read_comparison(comparison))
        screenshot(comparison / "report.html", "gallery", PICTURE)
    README.write_text(updated(README.read_text(), json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
