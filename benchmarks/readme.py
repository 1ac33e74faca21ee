"""Write the README's table and picture from a comparison.

    python benchmarks/readme.py demo     keep demo/results.json as benchmarks/results/white-patch.json,
                                         photograph demo/report.html, and renew README.md
    python benchmarks/readme.py          renew README.md from the file that was kept

The picture needs playwright and a Chromium.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from gallery import photograph

ROOT = Path(__file__).parent.parent
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "white-patch.jpg"
RESULT = ROOT / "benchmarks" / "results" / "white-patch.json"
BEGIN, END = "<!-- table: benchmarks/readme.py writes it -->", "<!-- end of table -->"


def table(summary: dict[str, Any]) -> str:
    """Return the leaderboard as Markdown, with what it was measured on."""
    lines = [
        "| attention | test error | against none | looks at the target | parameters | MFLOPs | latency |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(summary["leaderboard"], key=lambda row: -row["error"]["mean"]):
        cells = (
            f"`{row['attention']}`",
            f"{100 * row['error']['mean']:.1f}% {span(row['error'])}",
            ""
            if row["difference"] is None
            else f"{100 * row['difference']['mean']:+.1f} {span(row['difference'])}",
            looks(row["localization"]),
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
        f"{task['test']:,} test images from different photographs; brackets are 95% intervals over seeds, "
        "differences are paired and in percentage points. *Looks at the target* is the average precision of "
        "the map's pixels, for a map that brightens or darkens the target, over all test images with one. "
        f"Measured on {machine['gpu'] or machine['cpu']}, {machine['cores']} cores, "
        f"torch {machine['torch']}; "
        f"{minutes:.1f} minutes of training in all.",
    ]
    return "\n".join(lines)


def span(interval: dict[str, float]) -> str:
    return f"[{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def looks(score: dict[str, Any] | None) -> str:
    if score is None:
        return ""
    return f"{score['precision']['mean']:.2f} {score['polarity']} (chance {score['chance']:.2f})"


def renewed(readme: str, summary: dict[str, Any]) -> str:
    """Return the README with the table of this summary."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table(summary)}\n{END}{rest.split(END)[1]}"


def main() -> None:
    if len(sys.argv) > 1:
        comparison = Path(sys.argv[1])
        summary = json.loads((comparison / "results.json").read_text())
        RESULT.write_text(json.dumps(summary, indent=1) + "\n")
        photograph(comparison / "report.html", PICTURE)
    README.write_text(renewed(README.read_text(), json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
