"""The page of results is generated from the result files, from all of them."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from scipy import stats

import saccade as sc
from saccade.profiling import flops
from saccade.results import SCHEMA, ComparisonResults, SearchResults
from saccade.results.io import validate

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "benchmarks")]

import mechanism_table  # noqa: E402  (scripts beside the package)
import performance  # noqa: E402
import results  # noqa: E402
from dot_plot import dot_plot  # noqa: E402

SECTIONS = {**results.SECTIONS, **performance.SECTIONS}
RUN = [path.stem for path in sorted(results.FILES.glob("*.json"))]


def test_the_page_is_what_the_files_say() -> None:
    assert results.PAGE.read_text() == results.page(), "docs/results.md is old: python docs/results.py"


def test_the_page_of_speed_is_what_the_files_say() -> None:
    expected = results.page(performance.HEAD, performance.SECTIONS)
    assert performance.PAGE.read_text() == expected, "docs/performance.md is old: python docs/performance.py"


def test_the_plots_are_what_the_files_say() -> None:
    for file, drawing in performance.plots().items():
        assert file.read_text() == drawing, f"{file.name} is old: python docs/performance.py"
        assert f"]({file.name})" in performance.PAGE.read_text()


def test_dots_are_at_their_values() -> None:
    plot = ElementTree.fromstring(
        dot_plot("A & B", "ratio", {"x": {"ours": 2, "theirs": 20}, "y": {"ours": 50}}, log=True)
    )
    texts = {(text.text, text.get("x")) for text in plot.iter() if text.tag.endswith("text")}
    ticks = {text: float(x or 0) for text, x in texts if text in ("2", "20", "50")}
    ours = [float(dot.get("cx", 0)) for dot in plot.iter() if dot.tag.endswith("circle")]
    assert ours[:-1] == [ticks["2"], ticks["50"]]  # the last is in the legend
    (theirs,) = [dot for dot in plot.iter() if dot.get("class") == "mark s1"][:-1]
    assert float(theirs.get("x", 0)) + 4.5 == pytest.approx(ticks["20"], abs=0.1)
    assert dot_plot("", "", {"x": {"a": -3, "b": 9}}).count(">0</text>") == 1  # an axis with 0


def test_every_result_file_has_a_section() -> None:
    others = {"support", "search-cifar10"}  # on pages of their own, docs/support.md and docs/search.md
    assert {path.stem for path in results.FILES.glob("*.json")} == set(SECTIONS) | others


@pytest.mark.parametrize(
    "name", [name for name in RUN if name in SECTIONS and "networks" not in name and name != "faults"]
)
def test_a_section_follows_its_file(name: str) -> None:
    result = json.loads((results.FILES / f"{name}.json").read_text())
    _, section = SECTIONS[name]
    changed = _scaled(copy.deepcopy(result))
    assert section(changed) != section(result)


def test_differences_are_listed_with_and_without_correction() -> None:
    start = "After Holm correction for"
    assert results.holm({"a": 0.03, "b": 0.3, "c": 0.001}) == (
        f"{start} 3 comparisons, significant at 5%: `c`; without correction also `a`."
    )
    assert results.holm({"a": 0.03, "b": 0.3}) == (
        f"{start} 2 comparisons, significant at 5%: none; without correction `a`."
    )
    assert results.holm({"a": 0.1}) == f"{start} 1 comparison, significant at 5%: none."


def test_p_values_of_the_files_are_those_of_the_runs() -> None:
    for name in ("cifar10-narrow", "white-patch"):
        result = json.loads((results.FILES / f"{name}.json").read_text())
        errors: dict[str, list[float]] = {}
        for run in sorted(result["runs"], key=lambda run: run["seed"]):
            errors.setdefault(run["attention"], []).append(run["error"])
        for row in result["leaderboard"]:
            if row["attention"] != "none":
                expected = stats.ttest_rel(errors[row["attention"]], errors["none"]).pvalue
                assert row["p_value"] == pytest.approx(expected)


@pytest.mark.parametrize("path", sorted(results.FILES.glob("*.json")), ids=lambda path: path.stem)
def test_kept_comparisons_and_searches_follow_the_schema(path: Path) -> None:
    result = json.loads(path.read_text())
    if "leaderboard" in result:
        validate(path, result, SearchResults if "advice" in result else ComparisonResults)
        assert result["schema"] == SCHEMA


def test_attention_between_positions_fits_into_500_mb() -> None:
    rows = json.loads((results.FILES / "pairwise-cpu.json").read_text())["rows"]
    largest = [row for row in rows if row["side"] == 128]
    assert len(largest) == 17
    of_all_pairs, others = largest[:9], largest[9:]
    assert {row["mechanism"].partition(":")[0] for row in of_all_pairs} == {
        *("scaled_dot_product", "multi_head", "additive", "self_attention", "non_local")
    }
    output = 256 * 128 * 128 * 4 / 1e6
    assert max(row["ours"]["megabytes"] for row in of_all_pairs) < 500
    assert max(row["ours"]["megabytes"] for row in others) < 600 + output


def test_no_attention_between_positions_is_slower_than_its_naive_form() -> None:
    rows = json.loads((results.FILES / "pairwise-cpu.json").read_text())["rows"]
    ratios = {
        f"{row['mechanism']} {row['side']}": row["ours"]["seconds"] / row["naive"]["seconds"]
        for row in rows
        if "seconds" in row["naive"]
    }
    assert len(ratios) == 48
    # Repeated measurements of the same code differ by as much.
    assert {name: ratio for name, ratio in ratios.items() if ratio > 1.05} == {}


def _scaled(value: Any) -> Any:
    """Return a result with all its fractions changed."""
    if isinstance(value, dict):
        return {key: _scaled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_scaled(item) for item in value]
    return 2 * value + 1 if isinstance(value, float) else value


def test_the_table_of_networks_counts() -> None:
    _, section = results.SECTIONS["networks"]
    result = json.loads((results.FILES / "networks.json").read_text())
    result["rows"] = result["rows"][:1]
    result["rows"][0] |= {
        "library": "lib",
        "network": "net",
        "operations": 7,
        "pairs": 5,
        "unplaced": 2,
        "gates": 3,
    }
    assert any(line.startswith("| lib net | 7 | 5 | 3 |") for line in section(result))
    assert "7 ran, 5 recorded, 2 of them within windows" in section(result)[0]


def test_the_table_of_faults_counts_and_everything_recovered() -> None:
    result = json.loads((results.FILES / "faults.json").read_text())
    assert [name for name, row in result["rows"].items() if row["passed"] < row["rounds"]] == []
    result["rows"]["clock"] |= {"passed": 3, "rounds": 1234, "seconds": 601}
    assert any(line.endswith("| 3 of 1,234 | 10 min |") for line in results.faults(result))


def test_the_table_of_attached_networks_counts() -> None:
    _, section = results.SECTIONS["attach-networks"]
    result = json.loads((results.FILES / "attach-networks.json").read_text())
    row = result["rows"][0] | {"library": "lib", "network": "net", "attached": 5, "refusal": None}
    result["rows"] = [row, row | {"fused": False}, {"library": "other", "network": "no", "refusal": "why"}]
    lines = section(result)
    assert "| lib | 2 | 2 | 10 | 2 | 2 | 1 | 2 | 2 | 2 |" in lines
    assert "| all | 3 | 2 | 10 | 2 | 2 | 1 | 2 | 2 | 2 |" in lines
    assert "(other no)" in lines[0]


def test_the_table_of_mechanisms_follows_a_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In new processes for one of the mechanisms, as in the real run for all."""
    in_new_process = mechanism_table.measure_in_new_process

    def measure(name: str, side: int, seconds: float) -> dict[str, Any]:
        if name == "se":
            return in_new_process(name, side, seconds)
        return {"side": side, "megabytes": 0.0, **mechanism_table.measure(name, side, seconds)}

    out = tmp_path / "catalog.json"
    words = ["--only", "se", "halo", "--sides", "7", "--seconds", "0.01", "--out", str(out)]
    monkeypatch.setattr(mechanism_table, "measure_in_new_process", measure)
    monkeypatch.setattr(sys.modules["quiet"], "LIMIT", 2.0)  # the tests keep all cores busy
    monkeypatch.setattr(sys, "argv", ["mechanism_table.py", *words])
    mechanism_table.main()
    result = json.loads(out.read_text())
    se, halo = result["rows"]
    assert se["parameters"] == sum(p.numel() for p in sc.create("se", 64).parameters())
    assert se["sizes"][0]["flops"] == flops(sc.create("se", 64), torch.zeros(1, 64, 7, 7))
    assert {"formula", "torchvision SqueezeExcitation", "timm SEModule"} == {*se["proven"]}
    text = "\n".join(results.catalog(result))
    assert "| `halo:block_size=7` |" in text
    assert "`ChannelMap` | 1, 2, 3 | formula, torchvision SqueezeExcitation, timm SEModule |" in text
    assert halo["dims"] == []
