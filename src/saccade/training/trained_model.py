"""A trained network back from its run: from the checkpoint alone, so that its data need not be there."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from saccade.config import Plan, Recipe, resolve
from saccade.data import TaskInfo, load
from saccade.errors import BadRun
from saccade.results import read_gallery
from saccade.training.checkpoint import checkpoint_of, load_checkpoint
from saccade.training.module import Classifier
from saccade.training.objectives.select import create_objective


def restore(path: Path) -> Classifier:
    """Return the network of a run's folder, or of a checkpoint, in evaluation mode, on the CPU.

    Of a folder it is the network that was tested: the best one of a run with patience, else the last.

    Raises `BadRun` if there is none.
    """
    path = checkpoint_of(path)
    checkpoint = load_checkpoint(path)
    try:
        kept, state = checkpoint["hyper_parameters"], checkpoint["state_dict"]
        recipe = Recipe.from_mapping(kept["recipe"])
        with torch.random.fork_rng(devices=[]):
            mean, std = (
                state["mean"].float().flatten(),
                state["std"].float().flatten(),
            )  # whatever the precision of the training
            task = TaskInfo(tuple(kept["classes"]), tuple(kept["shape"]), mean, std)
            classifier = create_objective(resolve(recipe), task)
        classifier.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError) as error:
        raise BadRun(f"{str(path)!r} is not a checkpoint of a run of saccade") from error
    return classifier.eval()


def examples(path: Path, plan: Plan) -> tuple[Tensor, Tensor]:
    """Return test images (K, 3, H, W), or clips (K, 3, T, H, W), uint8, and their labels (K,).

    Args:
        path: A run folder, or a checkpoint in it. The images are those of the gallery of the run.
        plan: Plan of the run. Without a gallery, all test images of its task are loaded.
    """
    folder = path if path.is_dir() else path.parent.parent
    try:
        gallery = read_gallery(folder)
    except FileNotFoundError:
        test = load(plan.task).test
        return test.images, test.labels
    return gallery.images, gallery.labels
