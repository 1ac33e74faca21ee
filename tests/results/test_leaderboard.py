"""The leaderboard: pairing by seed, polarity of the maps, joined scores."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

from saccade.results import better_polarity, compute_leaderboard, main_map, summarize


def run_of(attention: str, seed: int, error: float, **others: Any) -> Any:
    costs = {"parameters": 1, "flops": 2, "latency_ms": 3.0 + seed, "train_seconds": 4.0}
    empty: dict[str, Any] = {"localization": None, "scores": None, "loss": 1.0, "curves": {}}
    return {"attention": attention, "seed": seed, "error": error, **costs, **empty, **others}


def localization(positive: float, negative: float) -> dict[str, Any]:
    keys = ("pointing", "energy", "precision")
    return {
        "chance": 0.02,
        "positive": dict.fromkeys(keys, positive),
        "negative": dict.fromkeys(keys, negative),
    }


def scored_run(seed: int, positive: float, negative: float, gain: float) -> Any:
    where, areas = localization(positive, negative), {"deletion": 0.4, "insertion": 0.5}
    scores = {
        "localization": where,
        "positive": {**areas, "auc_gain": gain},
        "negative": {**areas, "auc_gain": -gain},
        "sanity": {"spearman": 0.2, "ssim": 0.1},
    }
    both = {"attention": scores, "grad_cam": scores}
    return run_of("cbam", seed, 0.1, localization=where, scores=both)


SCORES = {"mean_iou": 0.5, "dice": 0.6, "boundary_f1": 0.7}


def test_equal_differences_of_few_images_are_not_significant() -> None:
    """Two seeds often have the same difference by chance, where errors are multiples of 1 / 20."""
    runs = [run_of(name, seed, error) for name, error in (("none", 0.5), ("se", 0.45)) for seed in range(2)]
    exact = compute_leaderboard(runs)[1]["p_value"]
    assert exact is not None
    assert exact < 1e-9
    rounded: Any = [{**run, "task": {"test": 20}} for run in runs]
    found = compute_leaderboard(rounded)[1]
    deviation = (1 / 20) / 6**0.5
    assert found["p_value"] == pytest.approx(2 * stats.t.sf(0.05 / deviation * 2**0.5, 1))
    assert found["difference"] is not None
    assert found["difference"]["high"] is not None
    assert found["difference"]["high"] > 0
    pixels: Any = [{**run, "segmentation": SCORES} for run in rounded]
    assert compute_leaderboard(pixels)[1]["p_value"] == pytest.approx(exact)


def test_differences_are_paired_by_seed() -> None:
    plain = [0.5, 0.3, 0.4]
    runs = [run_of("none", seed, error) for seed, error in enumerate(plain)]
    runs += [run_of("se", seed, error - 0.1) for seed, error in reversed(list(enumerate(plain)))]
    none, se = compute_leaderboard(runs)
    assert none["difference"] is None
    assert none["p_value"] is None
    difference, error = se["difference"], se["error"]
    assert difference
    assert difference["mean"] == pytest.approx(-0.1)
    assert difference["high"] == pytest.approx(difference["low"])
    assert se["p_value"] is not None
    assert se["p_value"] < 1e-9
    unequal = [run_of("eca", seed, error) for seed, error in enumerate([0.4, 0.28, 0.36])]
    expected = stats.ttest_rel([0.4, 0.28, 0.36], plain).pvalue
    assert compute_leaderboard([*runs, *unequal])[2]["p_value"] == pytest.approx(expected)
    assert (error["high"] or 0) - (error["low"] or 0) > 0.4  # unpaired, nothing could be said
    assert se["latency_ms"] == 4.0
    assert se["seeds"] == 3


def test_without_none_there_is_no_difference() -> None:
    (row,) = compute_leaderboard([run_of("se", 0, 0.2)])
    assert (row["difference"], row["p_value"], row["scores"]) == (None, None, None)
    assert main_map(row) is None


def test_localization_has_the_better_polarity() -> None:
    scores: list[Any] = [localization(0.1, 0.9), localization(0.2, 0.7), localization(0.5, 0.3)]
    assert [better_polarity(score) for score in scores] == ["negative", "negative", "positive"]
    assert better_polarity(scores[0] | {"positive": scores[0]["negative"]}) == "positive"  # a tie
    runs = [run_of("cbam", seed, 0.1, localization=score) for seed, score in enumerate(scores)]
    joined = compute_leaderboard(runs)[0]["localization"]
    assert joined
    assert joined["polarity"] == "negative"
    assert joined["agree"] == 2
    assert joined["precision"]["mean"] == pytest.approx((0.9 + 0.7 + 0.3) / 3)


def test_scores_have_the_polarity_that_finds_the_target() -> None:
    runs = [scored_run(0, 0.2, 0.9, 0.3), scored_run(1, 0.5, 0.6, 0.1)]
    (row,) = compute_leaderboard(runs)
    assert row["scores"]
    for maps in (row["scores"]["attention"], row["scores"]["grad_cam"]):
        assert maps["polarity"] == "negative"
        assert maps["faithfulness"]["mean"] == pytest.approx(-0.2)  # though positive is more faithful
        assert maps["precision"]
        assert maps["precision"]["mean"] == pytest.approx(0.75)
    assert main_map(row) is row["scores"]["attention"]
    (partly,) = compute_leaderboard([runs[0], run_of("cbam", 1, 0.1)])
    assert partly["scores"]
    assert partly["scores"]["attention"]["runs"] == 1


def test_an_attention_map_keeps_the_polarity_of_all_test_images() -> None:
    runs = [scored_run(seed, 0.9, 0.2, 0.3) for seed in range(2)]  # on the scored images: positive
    for run in runs:
        run["localization"] = localization(0.1, 0.8)  # on all test images: negative
    (row,) = compute_leaderboard(runs)
    assert row["scores"]
    assert row["scores"]["attention"]["polarity"] == "negative"
    assert row["scores"]["grad_cam"]["polarity"] == "positive"
    assert row["scores"]["attention"]["faithfulness"]["mean"] == pytest.approx(-0.3)


def test_without_masks_the_more_faithful_polarity_counts() -> None:
    runs = [scored_run(seed, 0.9, 0.2, -0.1) for seed in range(2)]
    for run in runs:
        run["localization"] = run["scores"]["attention"]["localization"] = None
        del run["scores"]["grad_cam"]
    (row,) = compute_leaderboard(runs)
    maps = main_map(row)
    assert maps
    assert (maps["polarity"], maps["precision"]) == ("negative", None)
    assert maps["faithfulness"]["mean"] == pytest.approx(0.1)


def test_a_summary_has_every_run_with_its_folder() -> None:
    task: Any = {"name": "white-patch"}
    runs = {f"runs/none-{seed}": run_of("none", seed, 0.1, schema=2, task=task) for seed in range(2)}
    summary = summarize({"seeds": 2}, runs)
    assert [run["folder"] for run in summary["runs"]] == list(runs)
    assert all(not run.keys() & {"schema", "task"} for run in summary["runs"])
    assert (summary["task"], summary["recipe"], summary["leaderboard"][0]["seeds"]) == (task, {"seeds": 2}, 2)
