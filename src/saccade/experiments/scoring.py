"""Scores of the maps of trained models: localization, faithfulness and the sanity check."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from saccade.attribution import grad_cam, last_layer
from saccade.data import Split
from saccade.errors import bad_run, check_positive
from saccade.maps import AttentionMap
from saccade.metrics import RANKINGS, Curves, Sanity, evaluate_faithfulness, localize, sanity_check
from saccade.models import RecurrentAttention
from saccade.results import (
    COMPARISON,
    RUN_RESULT,
    ComparisonResults,
    ComparisonRun,
    RunResult,
    RunScores,
    comparison_run,
    compute_leaderboard,
    lock_folder,
    read_comparison,
    read_run_result,
    write_comparison,
    write_run_result,
)
from saccade.training import Classifier, attention_path, record_attention, restore, stored_task

_T = TypeVar("_T")
Report = Callable[[str, float], None]  # the current step, and the completed fraction

_BATCH = 25  # small enough for the CPU cache
_DRAWS = 3  # random weights of the sanity check; its result varies more between draws than between images,
_CHECKED = 25  # so that this number of images suffices


def score(
    folder: Path,
    *,
    images: int = 100,
    steps: int = 20,
    report: Report = lambda _step, _fraction: None,
    trust: bool = False,
) -> RunResult | ComparisonResults:
    """Score the maps of a run, or of all runs of a comparison.

    The scores replace older ones in the result.json of each run, atomically. After the last run of a
    comparison, its results.json and leaderboard.csv are rewritten.

    Args:
        folder: Folder of a run or a comparison.
        images: Number of test images, evenly spaced; of those with a target if the task has masks.
        steps: Steps of the deletion and insertion curves.
        report: Called with the current step and the completed fraction.
        trust: Whether to load tasks that read, download or import something, although this user has not
            trained the runs.

    Returns:
        The content of result.json or results.json.

    Raises:
        BadRun: The folder holds neither a complete run nor a finished comparison, or is used by another
            process.
        BadOption: A number is not positive, or the images have fewer pixels than `steps`.
    """
    check_positive("score", images=images, steps=steps)
    if (folder / RUN_RESULT).exists():
        return _score_run(folder, images, steps, report, trust)
    if not (folder / COMPARISON).exists():
        comparison = f"a finished comparison, with {COMPARISON}"
        raise bad_run(folder, f"holds neither a complete run, with {RUN_RESULT}, nor {comparison}")
    summary = read_comparison(folder)
    runs = summary["runs"]
    with lock_folder(folder):

        def score_one(number: int, run: ComparisonRun) -> RunResult:
            def report_run(step: str, fraction: float) -> None:
                title = f"run {number + 1}/{len(runs)}: {run['attention']}, seed {run['seed']}: {step}"
                report(title, (number + fraction) / len(runs))

            return _score_run(folder / run["folder"], images, steps, report_run, trust)

        results = [score_one(number, run) for number, run in enumerate(runs)]
        summary["leaderboard"] = compute_leaderboard(results)
        summary["runs"] = [comparison_run(r, run["folder"]) for r, run in zip(results, runs, strict=True)]
        write_comparison(folder, summary)
    return summary


def _score_run(folder: Path, images: int, steps: int, report: Report, trust: bool) -> RunResult:
    """Score the maps of one run; write its result.json and return its content."""
    with lock_folder(folder):
        result = read_run_result(folder)
        classifier = restore(folder)
        classifier.to("cuda" if torch.cuda.is_available() else "cpu")
        test = stored_task(folder, classifier, trust=trust).test
        if test.images.ndim != 4:
            problem = "is a run on clips; only maps of images can be scored"
            raise bad_run(folder, problem, "task", classifier.recipe.task)
        result["scores"] = _scores(classifier, _select(test, images), steps, report)
        write_run_result(folder, result)
    return result


def _select(split: Split, count: int) -> Split:
    """Select evenly spaced images of a split; those with a target if it has masks."""
    if split.masks is None or not split.masks.any():
        split, index = Split(split.images, split.labels), torch.arange(len(split))
    else:
        index = split.masks.flatten(1).any(1).nonzero()[:, 0]
    return split.select(index[torch.linspace(0, len(index) - 1, min(count, len(index))).round().long()])


@dataclass(frozen=True)
class _Map:
    """A kind of map of a model: its attention, with the path of the module, or Grad-CAM."""

    name: str
    path: str | None
    kind: str
    of_batch: Callable[[Tensor], AttentionMap]

    def heatmaps(self, images: Tensor) -> Tensor:
        """Return the heatmaps of images, (N, H, W)."""
        size = (images.shape[2], images.shape[3])
        return torch.cat([self.of_batch(batch).heatmap(size) for batch in images.split(_BATCH)])


def _maps(classifier: Classifier, images: Tensor) -> list[_Map]:
    maps = []
    if attention_path(classifier.model) is not None:
        path, recorded, _ = record_attention(classifier, images[:1])
        maps.append(_Map("attention", path, recorded.kind, lambda x: record_attention(classifier, x)[1]))
    if not isinstance(classifier.model, RecurrentAttention):  # it has no layer with positions
        layer = last_layer(classifier, images[:1], classifier.explained)
        maps.append(
            _Map(
                "grad_cam",
                None,
                "spatial",
                partial(grad_cam, classifier, layer=layer, target=classifier.explained),
            )
        )
    return maps


def _scores(classifier: Classifier, split: Split, steps: int, report: Report) -> RunScores:
    """Score the attention and Grad-CAM, as far as the model has them, on the same images."""
    images = split.images.to(classifier.device).float()
    few = images[:: math.ceil(len(images) / _CHECKED)]
    maps = _maps(classifier, images)
    progress = _Progress(report, stages=2 * len(maps))
    scores: dict[str, Any] = {"images": len(images), "steps": steps}
    chance: Curves | None = None
    for source in maps:
        heatmap = source.heatmaps(images)
        rankings = RANKINGS if chance is None else ("positive", "negative")
        calls = 2 * len(rankings) * math.ceil(len(images) * (steps + 1) / _BATCH)
        predict = progress.counted(f"faithfulness, {source.name}", calls, classifier.image_scores)
        curves = evaluate_faithfulness(
            predict, images, heatmap, rankings=rankings, steps=steps, batch_size=_BATCH
        )
        if chance is None:
            chance = curves["random"]
            scores |= {"shares": chance.shares.tolist()}
            scores |= {name: curves[name].mean() for name in ("random", "center_prior")}
        localization = None if split.masks is None else localize(heatmap, split.masks).mean()
        of_map: dict[str, Any] = {"path": source.path, "kind": source.kind, "localization": localization}
        for polarity in ("positive", "negative"):
            gain = curves[polarity].auc_gain(over=chance).mean().item()
            of_map[polarity] = curves[polarity].mean() | {"auc_gain": gain}
        scores[source.name] = of_map | {"sanity": _sanity(classifier, source, few, progress)}
    return cast(RunScores, scores)


def _sanity(classifier: Classifier, source: _Map, images: Tensor, progress: _Progress) -> dict[str, Any]:
    """Return the mean of the sanity check over images and draws. The draws depend on the seed of the run."""
    layers = sum(bool([*module.parameters(recurse=False)]) for module in classifier.modules())

    def heatmaps(_model: nn.Module) -> Tensor:
        return source.heatmaps(images)

    compute = progress.counted(f"sanity check, {source.name}", _DRAWS * (1 + layers), heatmaps)
    at = None if source.path is None else f"model.{source.path}".rstrip(".")
    first = _DRAWS * classifier.recipe.seed
    draws = [sanity_check(classifier, compute, at=at, seed=seed) for seed in range(first, first + _DRAWS)]
    rank, ssim = (torch.cat([getattr(draw, name) for draw in draws], dim=1) for name in ("spearman", "ssim"))
    return Sanity(draws[0].layers, draws[0].reaches, rank, ssim).mean()


class _Progress:
    """Reports the completed fraction of several stages, from the number of calls of each stage's function."""

    def __init__(self, report: Report, stages: int) -> None:
        self.report, self.stages, self.started = report, stages, 0

    def counted(self, stage: str, calls: int, function: Callable[[_T], Tensor]) -> Callable[[_T], Tensor]:
        """Return the function of the next stage, which counts and reports its calls."""
        before, made = self.started, 0
        self.started += 1

        def counting(x: _T) -> Tensor:
            nonlocal made
            made += 1
            result = function(x)
            self.report(stage.replace("grad_cam", "Grad-CAM"), (before + min(1, made / calls)) / self.stages)
            return result

        return counting
