"""Scores of the maps of trained networks: do they show what the network uses, and what it has learned?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from saccade.attribution import grad_cam
from saccade.data import Split, load
from saccade.errors import BadRun, check_positive
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
from saccade.training.evaluate import look
from saccade.training.module import Classifier
from saccade.training.network import attention_path
from saccade.training.trained_model import restore

_T = TypeVar("_T")
Report = Callable[[str, float], None]  # what is being done, and the share that is done

_BATCH = 25  # few enough that their pixels stay in the cache
_DRAWS = 3  # of random weights; how alike a map stays depends on the draw more than on the image,
_CHECKED = 25  # so that so many images are enough for the sanity check


def score(
    folder: Path, *, images: int = 100, steps: int = 20, report: Report = lambda _what, _share: None
) -> RunResult | ComparisonResults:
    """Score the maps of a run, or of all runs of a comparison; return its result.json or results.json.

    images      of the test images, at even distances; where the task has masks, of those with a target
    steps       of the deletion and insertion curves

    Each run's result.json gets its scores when they are complete, by rename, in place of older ones. After
    the last run of a comparison, its results.json and leaderboard.csv are written again with them.

    Raises `BadRun` if the folder holds neither a complete run nor a finished comparison, or another process
    writes there.
    """
    check_positive("score", images=images, steps=steps)
    if (folder / RUN_RESULT).exists():
        return score_run(folder, images, steps, report)
    if not (folder / COMPARISON).exists():
        message = (
            f"{str(folder)!r} holds neither a complete run, with {RUN_RESULT}, nor a finished comparison, "
            f"with {COMPARISON}"
        )
        raise BadRun(message, owner=str(folder))
    summary = read_comparison(folder)
    runs = summary["runs"]
    with lock_folder(folder):
        results = []
        for number, run in enumerate(runs):

            def tell(what: str, share: float, number: int = number, run: ComparisonRun = run) -> None:
                title = f"run {number + 1}/{len(runs)}: {run['attention']}, seed {run['seed']}: {what}"
                report(title, (number + share) / len(runs))

            results.append(score_run(folder / run["folder"], images, steps, tell))
        summary["leaderboard"] = compute_leaderboard(results)
        summary["runs"] = [comparison_run(r, run["folder"]) for r, run in zip(results, runs, strict=True)]
        write_comparison(folder, summary)
    return summary


def score_run(folder: Path, images: int, steps: int, report: Report) -> RunResult:
    """Score the maps of one run, write them into its result.json, and return all that it holds."""
    with lock_folder(folder):
        result = read_run_result(folder)
        classifier = restore(folder)
        classifier.to("cuda" if torch.cuda.is_available() else "cpu")
        test = load(classifier.plan.task).test
        if test.images.ndim != 4:
            raise BadRun(f"{str(folder)!r} is a run on clips; the scores take pixels out of images")
        result["scores"] = _scores(classifier, _choose(test, images), steps, report)
        write_run_result(folder, result)
    return result


def _choose(split: Split, count: int) -> Split:
    """Return images of a split at even distances; of those with a target, where that is known."""
    where = torch.arange(len(split))
    if split.masks is not None and split.masks.any():
        where = split.masks.flatten(1).any(1).nonzero()[:, 0]
    where = where[torch.linspace(0, len(where) - 1, min(count, len(where))).round().long()]
    masks = split.masks[where] if split.masks is not None and split.masks.any() else None
    return Split(split.images[where], split.labels[where], masks)


@dataclass(frozen=True)
class _Map:
    """A way to heat maps of the images: an attention, with the path of its module, or Grad-CAM."""

    name: str
    path: str | None
    kind: str
    heat: Callable[[nn.Module], Tensor]


def _maps(classifier: Classifier, images: Tensor) -> list[_Map]:
    size, parts = (images.shape[2], images.shape[3]), images.split(_BATCH)

    def cam(_: nn.Module) -> Tensor:
        return torch.cat([grad_cam(classifier, part).heatmap(size) for part in parts])

    def attention(_: nn.Module) -> Tensor:
        return torch.cat([look(classifier, part)[1].heatmap(size) for part in parts])

    maps = []
    if attention_path(classifier.model) is not None:
        path, found, _ = look(classifier, images[:1])
        maps.append(_Map("attention", path, found.kind, attention))
    if not isinstance(classifier.model, RecurrentAttention):  # it has no layer with places
        maps.append(_Map("grad_cam", None, "spatial", cam))
    return maps


def _scores(classifier: Classifier, split: Split, steps: int, report: Report) -> RunScores:
    """Return the scores of the attention and of Grad-CAM, of those that there are, on the same images."""
    images = split.images.to(classifier.device).float()
    maps, few = _maps(classifier, images), _maps(classifier, images[:: math.ceil(len(images) / _CHECKED)])
    progress = _Progress(report, stages=2 * len(maps))
    found: dict[str, Any] = {"images": len(images), "steps": steps}
    chance: Curves | None = None
    for its, of_few in zip(maps, few, strict=True):
        heatmap = its.heat(classifier)
        rankings = RANKINGS if chance is None else ("positive", "negative")
        calls = 2 * len(rankings) * math.ceil(len(images) * (steps + 1) / _BATCH)
        predict = progress.counted(f"faithfulness, {its.name}", calls, lambda x: classifier(x).softmax(1))
        curves = evaluate_faithfulness(
            predict, images, heatmap, rankings=rankings, steps=steps, batch_size=_BATCH
        )
        if chance is None:
            chance = curves["random"]
            found |= {"shares": chance.shares.tolist()}
            found |= {name: curves[name].mean() for name in ("random", "center_prior")}
        signs = {
            sign: curves[sign].mean() | {"auc_gain": curves[sign].auc_gain(over=chance).mean().item()}
            for sign in ("positive", "negative")
        }
        where = None if split.masks is None else localize(heatmap, split.masks).mean()
        facts = {"path": its.path, "kind": its.kind, "localization": where}
        found[its.name] = facts | signs | {"sanity": _sanity(classifier, of_few, progress)}
    return cast(RunScores, found)


def _sanity(classifier: Classifier, its: _Map, progress: _Progress) -> dict[str, Any]:
    """Return the mean of the sanity check over images and draws, which differ from seed to seed."""
    layers = sum(bool([*module.parameters(recurse=False)]) for module in classifier.modules())
    heat = progress.counted(f"sanity check, {its.name}", _DRAWS * (1 + layers), its.heat)
    at = None if its.path is None else f"model.{its.path}".rstrip(".")
    first = _DRAWS * classifier.recipe.seed
    draws = [sanity_check(classifier, heat, at=at, seed=seed) for seed in range(first, first + _DRAWS)]
    rank, ssim = (torch.cat([getattr(draw, name) for draw in draws], dim=1) for name in ("spearman", "ssim"))
    return Sanity(draws[0].layers, draws[0].reaches, rank, ssim).mean()


class _Progress:
    """Tells the share of all stages that is done, by the calls of each stage's function."""

    def __init__(self, report: Report, stages: int) -> None:
        self.report, self.stages, self.begun = report, stages, 0

    def counted(self, what: str, calls: int, function: Callable[[_T], Tensor]) -> Callable[[_T], Tensor]:
        before, made = self.begun, 0
        self.begun += 1

        def counting(x: _T) -> Tensor:
            nonlocal made
            made += 1
            result = function(x)
            self.report(what.replace("grad_cam", "Grad-CAM"), (before + min(1, made / calls)) / self.stages)
            return result

        return counting
