"""Evaluation of a trained model on a task: error, error per class, confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_confusion_matrix

from saccade.data import Task, load_task
from saccade.errors import BadData, BadRun
from saccade.results import SCHEMA, Evaluation, proportion_interval
from saccade.training.evaluate import localize, predict
from saccade.training.module import Classifier
from saccade.training.network import attention_path
from saccade.training.trained_model import restore, stored_task


def evaluate_run(path: Path, task: str | None = None, *, trust: bool = False) -> Evaluation:
    """Evaluate the model of a run, or of a checkpoint, on the test images of a task.

    Args:
        path: Folder of a run, or a checkpoint.
        task: NAME[:option=value,...], with the same classes as the task of the run, which is the default.
        trust: Whether to load a task that reads, downloads or imports something, although this user has not
            trained the run.

    Returns:
        The content of `saccade evaluate --json`. The interval of the error is Wilson's for a proportion of
        the images: it does not cover the variation between seeds.

    Raises:
        BadRun: There is no such model, or its task is not trusted.
        BadData: The task has other classes, or images of a size that the model does not accept.
    """
    if (path / "runs").is_dir():
        message = f"{str(path)!r} is the folder of a comparison; name one of its runs, below runs/"
        raise BadRun(message, owner=str(path))
    classifier = restore(path)
    classifier.to("cuda" if torch.cuda.is_available() else "cpu")
    data = load_task(task) if task else stored_task(path, classifier, trust=trust)
    _check(classifier, data, task or classifier.recipe.task)
    logits = predict(classifier, data.test.images)
    predictions, labels = logits.argmax(1), data.test.labels
    confusion = multiclass_confusion_matrix(predictions, labels, num_classes=len(data.classes))
    counts, correct = confusion.sum(1), confusion.diagonal()
    has_attention = attention_path(classifier.model) is not None
    return {
        "schema": SCHEMA,
        "network": str(path),
        "attention": classifier.recipe.attention,
        "task": data.name,
        "images": len(labels),
        "error": proportion_interval(int(len(labels) - correct.sum()), len(labels)),
        "loss": F.cross_entropy(logits, labels).item(),
        "chance_error": data.chance_error(),
        "classes": [
            {"name": name, "images": images, "error": 1 - hits / images if images else None}
            for name, images, hits in zip(data.classes, counts.tolist(), correct.tolist(), strict=True)
        ],
        "confusion": confusion.tolist(),
        "localization": localize(classifier, data.test) if has_attention else None,
        "skipped": list(data.skipped),
    }


def _check(classifier: Classifier, task: Task, text: str) -> None:
    """Raise `BadData` unless the model can predict the classes of the task."""
    classes, shape = list(classifier.hparams["classes"]), tuple(classifier.hparams["shape"])
    if list(task.classes) != classes:
        message = f"the model predicts {_summary(classes)}, but {text!r} has {_summary(task.classes)}"
        raise BadData(message, owner=text, option="classes", value=list(task.classes), choices=classes)
    if task.shape == shape:
        return
    try:
        predict(classifier, task.test.images[:1])
    except (RuntimeError, ValueError, AssertionError) as error:
        message = f"the model expects images of shape {shape}, but those of {text!r} are {task.shape}"
        raise BadData(message, owner=text, option="shape", value=task.shape) from error


def _summary(names: Sequence[str]) -> str:
    """Name up to five classes.

    Example:
        >>> _summary(["cat", "dog"]), _summary("abcdefg")
        ("2 classes ('cat', 'dog')", "7 classes ('a', 'b', 'c', 'd', 'e', ...)")
    """
    listed = [*map(repr, names[:5]), *(["..."] if len(names) > 5 else [])]
    return f"{len(names)} classes ({', '.join(listed)})"
