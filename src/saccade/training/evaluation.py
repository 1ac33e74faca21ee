"""What a trained network is worth on a task: its error, that of each class, and what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix

from saccade.data import Task, load_task
from saccade.errors import BadData, BadRun
from saccade.training.evaluate import localize, predict
from saccade.training.module import Classifier
from saccade.training.network import attention_path
from saccade.training.restore import restore

SCHEMA = 1


def evaluation(path: Path, task: str | None = None) -> dict[str, Any]:
    """Return what the network of a run, or of a checkpoint, makes of the test images of a task.

    task    NAME[:option=value,...], of the same classes as that of the run, which is the default

    The keys: `schema`, `network`, `attention`, `task`, `images`; `error`, an interval {mean, low, high}: the
    share of wrong answers with its 95% interval (Wilson's, for a proportion); `loss`; `chance_error`, that of
    always naming the most frequent class; `classes`, for each its name, images and error, null without an
    image; `confusion`, the counts, a row for each true class and a column for each answer; `localization`, as
    in result.json; `skipped`, the images that could not be read.

    Raises `BadRun` if there is no such network, `BadData` if the task's classes are others, or its images of
    a size that the network does not take.
    """
    if (path / "runs").is_dir():
        raise BadRun(f"{str(path)!r} is the folder of a comparison; name one of its runs, below runs/")
    classifier = restore(path)
    classifier.to("cuda" if torch.cuda.is_available() else "cpu")
    its = load_task(task or classifier.recipe.task)
    _check(classifier, its, task or classifier.recipe.task)
    logits = predict(classifier, its.test.images)
    answers, labels = logits.argmax(1), its.test.labels
    confusion = multiclass_confusion_matrix(answers, labels, num_classes=len(its.classes))
    counts, right = confusion.sum(1), confusion.diagonal()
    wrong = int(len(labels) - right.sum())
    interval = stats.binomtest(wrong, len(labels)).proportion_ci(method="wilson")
    return {
        "schema": SCHEMA,
        "network": str(path),
        "attention": classifier.recipe.attention,
        "task": its.name,
        "images": len(labels),
        "error": {"mean": wrong / len(labels), "low": float(interval.low), "high": float(interval.high)},
        "loss": F.cross_entropy(logits, labels).item(),
        "chance_error": its.chance_error(),
        "classes": [
            {"name": name, "images": images, "error": 1 - hits / images if images else None}
            for name, images, hits in zip(its.classes, counts.tolist(), right.tolist(), strict=True)
        ],
        "confusion": confusion.tolist(),
        "localization": localize(classifier, its.test)
        if attention_path(classifier.model) is not None
        else None,
        "skipped": list(its.skipped),
    }


def _check(classifier: Classifier, task: Task, text: str) -> None:
    """Raise `BadData` unless the network can answer the task."""
    known, shape = list(classifier.hparams["classes"]), tuple(classifier.hparams["shape"])
    if list(task.classes) != known:
        raise BadData(f"the network tells {_listed(known)} apart, and {text!r} has {_listed(task.classes)}")
    if task.shape == shape:
        return
    try:
        predict(classifier, task.test.images[:1])
    except (RuntimeError, ValueError, AssertionError) as error:
        raise BadData(f"the network takes images {shape}, and those of {text!r} are {task.shape}") from error


def _listed(names: Sequence[str]) -> str:
    """Name up to five classes.

    >>> _listed(["cat", "dog"]), _listed("abcdefg")
    ("2 classes, 'cat', 'dog'", "7 classes, 'a', 'b', 'c', 'd', 'e' ...")
    """
    first = ", ".join(map(repr, names[:5]))
    return f"{len(names)} classes, {first}{' ...' if len(names) > 5 else ''}"
