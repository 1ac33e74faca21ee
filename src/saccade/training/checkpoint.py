"""Checkpoints: where and how a run saves them, and what they restore: the model and, if trusted, its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from saccade.config import Recipe, resolve
from saccade.data import Task, TaskInfo, load
from saccade.errors import SaccadeError, bad_run
from saccade.files import atomic_write
from saccade.models import read_tensors
from saccade.results import is_signed, read_gallery
from saccade.training.module import Classifier
from saccade.training.objectives.registry import create_objective

CHECKPOINT = Path("checkpoints") / "last.ckpt"
BEST = Path("checkpoints") / "best.ckpt"
RECIPE = "recipe.yaml"


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints that are complete or absent.

    Lightning moves a temporary file to the run. From another file system, as /tmp often is, this is a copy: a
    full disk or a kill leaves a part of it.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: object = None,  # noqa: ARG002 (a parameter of the interface)
    ) -> None:
        """Save a checkpoint. Raises `BadRun` if it cannot be written."""
        with atomic_write(Path(path)) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # how torch reports that a file cannot be written
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise


def checkpoint_of(path: Path) -> Path:
    """Return the checkpoint that a run was tested with: the best one with early stopping, else the last.

    Args:
        path: Folder of a run, or a checkpoint, which is returned unchanged.

    Raises:
        BadRun: The folder is not a run.
    """
    if not path.is_dir():
        return path
    if not (path / RECIPE).is_file():
        raise bad_run(path, f"is not the folder of a run: it holds no {RECIPE}", RECIPE)
    recipe = Recipe.read(path / RECIPE)
    return path / (CHECKPOINT if recipe.early_stopping_patience is None else BEST)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without executing any code in it.

    Raises:
        BadRun: The file is missing, or is not a checkpoint of a run.
    """
    try:
        checkpoint = read_tensors(path)
    except FileNotFoundError as error:
        raise bad_run(path, "does not exist") from error
    except Exception as error:  # torch.load raises almost any error for foreign files
        raise bad_run(path, "is not a checkpoint of a run") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "loops"} <= checkpoint.keys():
        raise bad_run(path, "is not a checkpoint of a run")
    return checkpoint


def restore(path: Path) -> Classifier:
    """Restore the trained model of a run.

    Args:
        path: Folder of a run, whose tested model is restored, or a checkpoint. With early stopping the tested
            model is the best one, otherwise the last one.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        BadRun: There is no such run or checkpoint.
    """
    path = checkpoint_of(path)
    checkpoint = load_checkpoint(path)
    try:
        saved, state = checkpoint["hyper_parameters"], checkpoint["state_dict"]
        plan = resolve(Recipe.from_mapping(saved["recipe"]))
        # float32, whatever the precision of the training
        mean, std = (state[name].float().flatten() for name in ("mean", "std"))
        classes, shape = tuple(saved["classes"]), tuple(saved["shape"])
        task = TaskInfo(classes, shape, mean, std, saved.get("segmentation", False))
        with torch.device("meta"):  # a damaged recipe may name a model that exceeds the memory
            expected = create_objective(plan, task).state_dict()
        if {name: value.shape for name, value in expected.items()} != {k: v.shape for k, v in state.items()}:
            raise ValueError("the weights do not fit the recipe")
        with torch.random.fork_rng(devices=[]):
            classifier = create_objective(plan, task)
        classifier.load_state_dict(state)
        classifier.hparams["signature"] = saved.get("signature")
    except SaccadeError as error:
        raise bad_run(path, f"cannot be restored: {error}", error.option, error.value) from error
    except Exception as error:  # a damaged checkpoint fails anywhere
        raise bad_run(path, "is not a checkpoint of a run of saccade") from error
    return classifier.eval()


def stored_task(path: Path, classifier: Classifier, *, trust: bool) -> Task:
    """Load the task of a restored run.

    A run that this user has trained is trusted: its checkpoint holds a signature of the task. The task of
    another run must compute from bundled data alone.

    Args:
        path: The run or checkpoint, for the message.
        classifier: The restored model.
        trust: Whether the user trusts the run.

    Raises:
        BadRun: The task reads, downloads or imports something, and the run is not trusted.
    """
    task = classifier.plan.task
    if not (trust or task.effect is None or is_signed(task.text, classifier.hparams["signature"])):
        problem = f"was not trained by this user on this machine, and its task {task.effect}"
        raise bad_run(path, f"{problem}; add --trust to allow it", "trust", task.text)
    return load(task)


def examples(path: Path, classifier: Classifier, *, trust: bool = False) -> tuple[Tensor, Tensor]:
    """Return test images of a run: those in its gallery or, if it has none yet, all of its task.

    Args:
        path: Folder of the run, or a checkpoint in it.
        classifier: The restored model.
        trust: Whether the user trusts the run, see `stored_task`.

    Returns:
        Images `(K, 3, H, W)` or clips `(K, 3, T, H, W)`, uint8, and labels `(K,)`.

    Raises:
        BadRun: The gallery cannot be read, or the run is not trusted.
    """
    folder = path if path.is_dir() else path.parent.parent
    try:
        gallery = read_gallery(folder)
    except FileNotFoundError:
        test = stored_task(path, classifier, trust=trust).test
        return test.images, test.labels
    return gallery.images, gallery.labels
