"""The history of a run: learning curves and training time, saved in checkpoints and reported as it trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from saccade.errors import BadRun
from saccade.files import write_text
from saccade.metrics import mean_iou

COLUMNS = ("epoch", "train_loss", "train_error", "val_loss", "val_error")


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Attributes:
        fraction: Completed fraction of all steps.
        epoch: Current epoch, from 1.
        epochs: Number of epochs.
        loss: Mean training loss of the current epoch so far.
        error: Training error of the current epoch so far.
        seconds_left: Estimated remaining time.
        images_per_second: Throughput of training.
    """

    fraction: float
    epoch: int
    epochs: int
    loss: float
    error: float
    seconds_left: float
    images_per_second: float


@dataclass
class Sums:
    """Sums of loss and errors over the batches of an epoch, kept on the device.

    The errors are numbers of wrong answers or, for segmentation, the confusion matrix of the pixels.
    """

    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    wrong: Tensor = field(default_factory=lambda: torch.zeros(()))
    confusion: Tensor | None = None
    images: int = 0
    answers: int = 0

    def add(self, outputs: dict[str, Tensor], images: int) -> None:
        self.loss = self.loss + outputs["loss"].detach() * images
        if (confusion := outputs.get("confusion")) is None:
            self.wrong = self.wrong + outputs["wrong"]
        else:
            self.confusion = confusion if self.confusion is None else self.confusion + confusion
        self.images += images
        self.answers += int(outputs.get("answers", images))  # some objectives use only a part of the labels

    def gather(self, trainer: lightning.Trainer) -> None:
        """Add up the sums over all processes."""
        if trainer.world_size > 1:
            counts = [torch.full_like(self.loss, count) for count in (self.images, self.answers)]
            sums = torch.stack([self.loss, self.wrong, *counts])
            self.loss, self.wrong, images, answers = trainer.strategy.reduce(sums, reduce_op="sum").unbind()
            self.images, self.answers = int(images), int(answers)
            if self.confusion is not None:
                self.confusion = trainer.strategy.reduce(self.confusion, reduce_op="sum")

    def means(self) -> tuple[float, float]:
        wrong = float(self.wrong) / max(self.answers, 1)
        error = wrong if self.confusion is None else 1 - mean_iou(self.confusion)
        return float(self.loss) / max(self.images, 1), error


class History(lightning.Callback):
    """Keep one row per epoch, write the rows to metrics.csv, and report progress while training.

    Attributes:
        rows: Values of `COLUMNS` of each completed epoch.
        seconds: Training time of the completed epochs.

    Args:
        csv: Path of metrics.csv.
        report: Called with the progress: after the first batch of an epoch, then at most every 0.2 seconds,
            and after every epoch.

    Raises:
        BadRun: The training loss is not finite.
    """

    def __init__(self, csv: Path, report: Callable[[Progress], None] | None = None) -> None:
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0
        self._csv, self._report = csv, report
        self._train, self._validation = Sums(), Sums()
        self._started = self._reported = self._rate = 0.0

    def state_dict(self) -> dict[str, Any]:
        elapsed = time.perf_counter() - self._started if self._train.images else 0.0
        epoch = {"sums": {**vars(self._train)}, "seconds": elapsed}
        return {"rows": self.rows, "seconds": self.seconds, "epoch": epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.seconds = list(state_dict["rows"]), state_dict["seconds"]
        self._train = Sums(**state_dict["epoch"]["sums"])
        self._started = time.perf_counter() - state_dict["epoch"]["seconds"]

    def join(self, trainer: lightning.Trainer) -> None:
        """Add up the sums over all processes, before a checkpoint inside an epoch."""
        self._train.gather(trainer)

    def on_train_start(self, trainer: lightning.Trainer, _module: Any) -> None:
        if not trainer.is_global_zero:
            self._train = Sums()  # the first process holds the sums of all

    def on_train_epoch_start(self, *_: Any) -> None:
        self._train, self._validation = Sums(), Sums()
        self._started, self._reported = time.perf_counter(), 0.0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, _module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        loss = outputs["loss"].item()
        if not math.isfinite(loss):
            raise _not_finite(trainer, loss, index)
        self._train.add(outputs, len(batch[1]))
        now = time.perf_counter()
        self._rate = self._train.images * trainer.world_size / (now - self._started)
        if self._report and now - self._reported > 0.2:
            self._reported = now
            self._report(self._progress(trainer, self.seconds + now - self._started))

    def on_validation_batch_end(self, _trainer: Any, _module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self._validation.add(outputs, len(batch[1]))

    def on_validation_epoch_end(self, _trainer: Any, module: lightning.LightningModule) -> None:
        module.log("val_error", self._validation.means()[1], logger=False)  # for early stopping

    def on_train_epoch_end(self, trainer: lightning.Trainer, _module: Any) -> None:
        self.seconds += time.perf_counter() - self._started
        self._train.gather(trainer)
        values = (trainer.current_epoch + 1, *self._train.means(), *self._validation.means())
        self.rows.append(dict(zip(COLUMNS, values, strict=True)))
        if trainer.is_global_zero:
            self._write(trainer)
        self._train = Sums()  # the next checkpoint contains no part of an epoch

    def _write(self, trainer: lightning.Trainer) -> None:
        lines = [COLUMNS, *(tuple(row.values()) for row in self.rows)]
        write_text(self._csv, "".join(",".join(map(str, line)) + "\n" for line in lines))
        for logger in trainer.loggers:
            logger.log_metrics(self.rows[-1], step=trainer.global_step)
            logger.save()  # makes the curves of a running or killed run visible
        if self._report:
            self._report(self._progress(trainer, self.seconds))

    def curves(self) -> dict[str, list[float | None]]:
        """Return the rows as columns, by name."""
        return {column: [row[column] for row in self.rows] for column in COLUMNS}

    def _progress(self, trainer: lightning.Trainer, seconds: float) -> Progress:
        total = int(trainer.estimated_stepping_batches)
        done = max(trainer.global_step, 1)
        loss, error = self._train.means()
        epochs = trainer.max_epochs or 1
        epoch = min(trainer.current_epoch + 1, epochs)
        left = seconds * (total - done) / done
        return Progress(done / total, epoch, epochs, loss, error, left, self._rate)


def _not_finite(trainer: lightning.Trainer, loss: float, index: int) -> BadRun:
    epochs = trainer.current_epoch
    usable = f"the checkpoint of epoch {epochs} is usable" if epochs else "no epoch was completed"
    step = f"step {trainer.global_step} (epoch {epochs + 1}, batch {index + 1})"
    message = f"the training loss is {loss} at {step}; {usable}; lower learning_rate or set grad_clip"
    return BadRun(message, option="loss", value=loss)
