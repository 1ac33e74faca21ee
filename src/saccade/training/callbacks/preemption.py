"""Preemption: a run that receives a signal saves a checkpoint and ends between two steps."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.utilities import rank_zero_only

from saccade.training.callbacks.history import History
from saccade.training.loader import Batches

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def is_first_process() -> bool:
    """Return whether this is the first process of a run, which alone writes and reports."""
    return getattr(rank_zero_only, "rank", 0) == 0


def reraise_signal(number: int) -> None:
    """Raise a signal that was deferred, and exit if the process survives it."""
    if not is_first_process():
        raise SystemExit(0)
    signal.raise_signal(number)
    raise SystemExit(128 + number)


class Preempted(Exception):
    """Raised in the training loop to leave it after a signal."""


class Preemption(lightning.Callback):
    """Save a checkpoint and leave training when SIGTERM or SIGINT (Ctrl-C) arrives.

    The current step is completed. If it is the last step of an epoch, validation runs too and the epoch ends
    as usual. After any other step a checkpoint is saved at once; a resumed run continues with the next batch.
    A second signal of the same kind takes effect at once. All processes of a run leave at the same step,
    whichever of them receives the signal.

    Attributes:
        signal: Number of the signal that arrived, to be raised again after the loop; None if there is none.

    Args:
        checkpoint: Path of the checkpoint.
        batches: Batches of the training images.
        history: History of the run.
    """

    def __init__(self, checkpoint: Path, batches: Batches, history: History) -> None:
        self.signal: int | None = None
        self._checkpoint, self._batches, self._history = checkpoint, batches, history
        self._done = 0  # completed batches of an incomplete epoch
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._batches.skip = state_dict["batches"]

    def on_train_start(self, *_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows signal handlers only in the main thread
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._defer)

    def _defer(self, number: int, _frame: Any) -> None:
        self.signal = number
        signal.signal(number, self._handlers[number])

    def on_train_epoch_start(self, trainer: lightning.Trainer, _module: Any) -> None:
        if self._is_preempted(trainer):
            raise Preempted

    def on_train_batch_end(
        self, trainer: lightning.Trainer, _module: Any, _outputs: Any, _batch: Any, index: int
    ) -> None:
        done = index + 1
        is_last = done == len(self._batches)
        if is_last or done % trainer.accumulate_grad_batches or not self._is_preempted(trainer):
            return  # a checkpoint does not contain accumulated gradients
        self._done = done
        self._history.join(trainer)
        trainer.save_checkpoint(self._checkpoint)
        raise Preempted

    def on_train_end(self, *_: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def on_exception(self, *_: Any) -> None:
        self.on_train_end()

    def _is_preempted(self, trainer: lightning.Trainer) -> bool:
        if trainer.world_size == 1:
            return self.signal is not None
        return trainer.strategy.reduce_boolean_decision(self.signal is not None, all=False)
