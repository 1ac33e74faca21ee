"""Ending a run between two steps, when its process is asked to."""

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


def reraise_signal(number: int) -> None:
    """Let this process have a signal whose coming was put off, and end it if it goes on all the same."""
    if getattr(rank_zero_only, "rank", 0) != 0:
        raise SystemExit(0)  # of several processes the first one answers
    signal.raise_signal(number)
    raise SystemExit(128 + number)


class Preempted(Exception):
    """Raised within the training loop to leave it."""


class Preemption(lightning.Callback):
    """Leave training, with a checkpoint, when SIGTERM or SIGINT (Ctrl-C) arrives.

    The step that is under way is finished, and so is an epoch whose last step it is, with its validation; a
    checkpoint of any other step is written at once, from which a resumed run goes on with the next batch. The
    signal is kept in `asked`, to be obeyed after the loop. Another one of the same kind is obeyed at once.
    Of several processes all leave at the same step, whichever of them was asked.
    """

    def __init__(self, checkpoint: Path, batches: Batches, history: History) -> None:
        self.asked: int | None = None
        self._checkpoint, self._batches, self._history = checkpoint, batches, history
        self._done = 0  # batches of an epoch that is not complete
        self._before: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._batches.skip = state_dict["batches"]

    def on_train_start(self, *_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only there can signals be caught
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, _frame: Any) -> None:
        self.asked = number
        signal.signal(number, self._before[number])

    def on_train_epoch_start(self, trainer: lightning.Trainer, _module: Any) -> None:
        if self._is_asked(trainer):
            raise Preempted

    def on_train_batch_end(
        self, trainer: lightning.Trainer, _module: Any, _outputs: Any, _batch: Any, index: int
    ) -> None:
        done = index + 1
        is_last = done == len(self._batches)
        if is_last or done % trainer.accumulate_grad_batches or not self._is_asked(trainer):
            return  # gradients in the making are not part of a checkpoint
        self._done = done
        self._history.join(trainer)
        trainer.save_checkpoint(self._checkpoint)
        raise Preempted

    def on_train_end(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def on_exception(self, *_: Any) -> None:
        self.on_train_end()

    def _is_asked(self, trainer: lightning.Trainer) -> bool:
        if trainer.world_size == 1:
            return self.asked is not None
        return trainer.strategy.reduce_boolean_decision(self.asked is not None, all=False)
