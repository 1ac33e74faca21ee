"""A trained network back from its run: from the checkpoint alone, so that its data need not be there."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saccade.data import load_task
from saccade.errors import BadRun
from saccade.train.classifier import Classifier
from saccade.train.recipe import Recipe, read_yaml
from saccade.train.run import CHECKPOINT, load_checkpoint


@dataclass(frozen=True)
class _Kept:
    """What a checkpoint keeps of its task."""

    classes: tuple[str, ...]
    shape: tuple[int, ...]
    mean: Tensor
    std: Tensor

    def normalisation(self) -> tuple[Tensor, Tensor]:
        return self.mean.flatten(), self.std.flatten()


def restore(path: Path) -> Classifier:
    """Return the network of a run's folder, or of a checkpoint, in evaluation mode, on the CPU.

    Of a folder it is the network that was tested: the best one of a run with patience, else the last.

    Raises `BadRun` if there is none.
    """
    if path.is_dir():
        if not (path / "recipe.yaml").is_file():
            raise BadRun(f"{str(path)!r} is not the folder of a run: it holds no recipe.yaml")
        recipe = Recipe.from_mapping(read_yaml(path / "recipe.yaml"))
        path /= CHECKPOINT if recipe.patience is None else CHECKPOINT.with_name("best.ckpt")
    checkpoint = load_checkpoint(path)
    try:
        kept, state = checkpoint["hyper_parameters"], checkpoint["state_dict"]
        recipe = Recipe.from_mapping(kept["recipe"])
        with torch.random.fork_rng(devices=[]):
            mean, std = state["mean"].float(), state["std"].float()  # whatever the precision of the training
            task = _Kept(tuple(kept["classes"]), tuple(kept["shape"]), mean, std)
            classifier = Classifier(recipe, task)
        classifier.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError) as error:
        raise BadRun(f"{str(path)!r} is not a checkpoint of a run of saccade") from error
    return classifier.eval()


def examples(path: Path, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Return test images (K, 3, H, W), or clips (K, 3, T, H, W), uint8, and their labels (K,).

    They are those of a complete run's gallery, else all of its task. `path` is that of the run's folder,
    or of a checkpoint in it.
    """
    folder = path if path.is_dir() else path.parent.parent
    try:
        with np.load(folder / "gallery.npz", allow_pickle=False) as archive:
            labels = torch.from_numpy(archive["labels"])
            if "clips" in archive:  # whose images are sheets of frames
                return torch.from_numpy(archive["clips"]), labels
            images = torch.from_numpy(archive["images"])
    except FileNotFoundError:
        test = load_task(recipe.task).test
        return test.images, test.labels
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BadRun(f"{str(folder / 'gallery.npz')!r} cannot be read: {error}") from error
    return images.permute(0, 3, 1, 2).contiguous(), labels
