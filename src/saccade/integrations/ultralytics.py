"""Attention in the models of ultralytics, whose trainers build a new network and load weights into it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from saccade.attachment import KINDS, attach
from saccade.errors import BadOption
from saccade.grammar import parse_placed


class AttachAttention:
    """A base class of trainers that attaches attention to each network that they build.

    `YOLO.train` builds a new network from its YAML file, so attention that was attached before is not in it.
    A subclass of this class and a trainer attaches it in `get_model`. Optimizer, average (EMA) and
    checkpoints then contain it, so that `YOLO("best.pt")` predicts, validates, exports and trains with it,
    where saccade is installed. Define the subclass in a module, not in a function, for training on several
    devices.

    Attributes:
        attention: The attention as `"NAME[:option=value,...][@PLACE[+PLACE...]]"`; without a place at the end
            of each residual branch.
        identity: Whether the network computes the same at initialization; see `saccade.attach`.

    Raises:
        BadOption: In training, if `attention` is not set or does not fit.

    Example:
        >>> class Trainer:  # of ultralytics, such as DetectionTrainer
        ...     def get_model(self, cfg=None, weights=None, verbose=True):
        ...         return torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU())
        >>> class AttentionTrainer(AttachAttention, Trainer):
        ...     attention = "cbam:reduction=4@0"
        >>> "0.attention.gate" in AttentionTrainer().get_model().state_dict()
        True
    """

    attention: ClassVar[str] = ""
    identity: ClassVar[bool] = True

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
        """Return the network of the trainer with attention, and with all weights that are given."""
        if not self.attention:
            message = f"{type(self).__name__}: set the attribute attention, such as attention = 'cbam'"
            raise BadOption(message, owner=type(self).__name__, option="attention", value=self.attention)
        build: Any = super()
        model: Any = build.get_model(cfg, weights, verbose)
        name, places = parse_placed(self.attention)
        kind = next((kind for kind in KINDS if places == [kind]), None)
        where = kind or places or None
        channels = next(p.shape[1] for p in model.parameters() if p.ndim == 4)
        size = getattr(getattr(self, "args", None), "imgsz", 64)
        images = torch.zeros(1, channels, size, size)
        attach(model, name, where=where, example_inputs=images, identity=self.identity)
        if weights:
            model.load(weights)  # those of attention, too, which had no place before
        return model  # type: ignore[no-any-return]
