"""The location policy of the recurrent attention model, Mnih et al. 2014."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saccade.errors import BadOption, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import FixationMap, Tap


class Fixated(NamedTuple):
    """A sampled location (B, 2), not clamped, its log-probability (B,), and the policy's mean (B, 2)."""

    location: Tensor
    log_probability: Tensor
    mean: Tensor


def fixation(mean: Tensor, std: float) -> Fixated:
    """Sample l ~ N(mean, std^2 I) and return it with log N(l; mean, std^2 I). mean (B, 2) -> l (B, 2)."""
    # The noise is drawn in float32 whatever the dtype, so that a seed means the same places in each.
    noise = torch.randn(mean.shape, device=mean.device, dtype=torch.float32).to(mean.dtype)
    location = (mean + std * noise).detach()
    squares = ((location - mean) / std).square().sum(1)
    constant = mean.shape[1] * (math.log(std) + 0.5 * math.log(2 * math.pi))
    return Fixated(location, -0.5 * squares - constant, mean)


class Fixation(nn.Module):
    """A Gaussian policy of where to look next, of fixed width around a mean computed from a state.

        mu = tanh(W h + b)        l ~ N(mu, sigma^2 I)        log pi(l | h) = log N(l; mu, sigma^2 I)

    Mnih, Heess, Graves, Kavukcuoglu: Recurrent Models of Visual Attention, NIPS 2014 (section 3.1).
    h `state`, W, b `mean`, sigma `std`, in units of half the image.

    state (B, C) -> `Fixated`: location (B, 2) in (x, y), log_probability (B,) and mean (B, 2). Locations
    are sampled in training and evaluation alike: `torch.manual_seed` repeats them. The location carries no
    gradient, its log-probability does: the gradient of E[R] is E[(R - b) grad log pi] (REINFORCE). It is
    that of the location as it was sampled. A location outside of [-1, 1] is left there; clamp it where an
    image is cut, never before its log-probability is taken. The recorded map holds the
    locations, each drawn as a square that reaches sigma to every side.

    Deviation: the mean passes through tanh, as in usual code, where the paper has a linear layer alone.

    Raises `BadOption` unless sigma is above 0, `BadShape` for any other input.

    >>> import torch
    >>> looked = Fixation(256, std=0.1)(torch.randn(4, 256))
    >>> looked.location.shape, looked.log_probability.shape
    (torch.Size([4, 2]), torch.Size([4]))
    """

    def __init__(self, channels: int, std: float = 0.1) -> None:
        super().__init__()
        if isinstance(std, bool) or not isinstance(std, int | float) or not 0 < std < math.inf:
            raise BadOption(f"fixation: std={std!r} must be a number above 0")
        self.channels, self.std = channels, std
        self.mean = nn.Linear(channels, 2)
        self.tap = Tap()

    def forward(self, state: Tensor) -> Fixated:
        check_shape("fixation", state, "B C", C=self.channels)
        looked = fixation(torch.tanh(self.mean(state)), self.std)
        if self.tap.recording:
            self.tap.publish(FixationMap(looked.location.unsqueeze(1), ((self.std, self.std),)))
        return looked

    def extra_repr(self) -> str:
        return f"std={self.std}"


SPEC = Spec(
    name="fixation",
    domain="hard",
    paper=Paper(
        "Recurrent Models of Visual Attention",
        "Mnih, Heess, Graves, Kavukcuoglu",
        2014,
        "https://arxiv.org/abs/1406.6247",
    ),
    summary="sample where to look next from a Gaussian around a place computed from a state",
    module=Fixation,
    function=fixation,
    examples=(Example("B C", output="B 2, B, B 2"), Example("B C", {"std": 0.5}, output="B 2, B, B 2")),
    maps=(FixationMap,),
    selection="hard",
    flow="state -> W, tanh -> draw around it -> location, log-probability",
)
