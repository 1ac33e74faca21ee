"""The location policy of the recurrent attention model, Mnih et al. 2014."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from saccade.errors import check_positive_number, check_shape
from saccade.layers.papers import RAM_PAPER
from saccade.layers.spec import Example, Spec
from saccade.maps import FixationMap, Tap


class Fixated(NamedTuple):
    """A sampled location.

    Attributes:
        location: Location (x, y), not clamped, (B, 2).
        log_probability: Log-probability of the location, (B,).
        mean: Mean of the policy, (B, 2).
    """

    location: Tensor
    log_probability: Tensor
    mean: Tensor


def fixation(mean: Tensor, std: float) -> Fixated:
    """Sample l ~ N(mean, std^2 I) and return it with log N(l; mean, std^2 I).

    Args:
        mean: Mean of the policy, (B, 2).
        std: Standard deviation, above 0.
    """
    # Noise in float32 makes a seed give the same locations for every dtype.
    noise = torch.randn(mean.shape, device=mean.device, dtype=torch.float32).to(mean.dtype)
    location = (mean + std * noise).detach()
    squares = ((location - mean) / std).square().sum(1)
    constant = mean.shape[1] * (math.log(std) + 0.5 * math.log(2 * math.pi))
    return Fixated(location, -0.5 * squares - constant, mean)


class Fixation(nn.Module):
    """Gaussian policy of the next location, with a fixed width around a mean computed from a state.

        mu = tanh(W h + b)        l ~ N(mu, sigma^2 I)        log pi(l | h) = log N(l; mu, sigma^2 I)

    h is `state`, W and b are `mean`, mu is the mean, sigma the standard deviation, l the location and pi the
    policy. Locations are sampled in training and in evaluation; `torch.manual_seed` makes them reproducible.
    The location carries no gradient. Its log-probability does, for REINFORCE: the gradient of E[R] is E[(R -
    b) grad log pi], with reward R and baseline b. The log-probability is that of the location as sampled:
    clamp a location outside [-1, 1] where the image is cropped, never before computing its log-probability.
    The recorded map holds the locations, each with a square footprint that extends by sigma to every side.

    References:
        Mnih, Heess, Graves, Kavukcuoglu: Recurrent Models of Visual Attention, NIPS 2014 (section 3.1).

    Args:
        channels: Width C of the state.
        std: Standard deviation sigma, above 0, in units of half the image.

    Shape:
        - Input: (B, C).
        - Output: `Fixated` with location (B, 2) in (x, y), log_probability (B,) and mean (B, 2).

    Raises:
        BadOption: If sigma is not above 0.
        BadShape: For any other input shape.

    Note:
        The mean passes through tanh, as in common implementations; the paper has a linear layer alone.

    Example:
        >>> import torch
        >>> fixated = Fixation(256, std=0.1)(torch.randn(4, 256))
        >>> fixated.location.shape, fixated.log_probability.shape
        (torch.Size([4, 2]), torch.Size([4]))
    """

    def __init__(self, channels: int, std: float = 0.1) -> None:
        super().__init__()
        check_positive_number("fixation", std=std)
        self.channels, self.std = channels, std
        self.mean = nn.Linear(channels, 2)
        self.tap = Tap()

    def forward(self, state: Tensor) -> Fixated:
        check_shape("fixation", state, "B C", C=self.channels)
        fixated = fixation(torch.tanh(self.mean(state)), self.std)
        if self.tap.recording:
            self.tap.publish(FixationMap(fixated.location.unsqueeze(1), ((self.std, self.std),)))
        return fixated

    def extra_repr(self) -> str:
        return f"std={self.std}"


SPEC = Spec(
    name="fixation",
    domain="hard",
    paper=RAM_PAPER,
    summary="sample the next location from a Gaussian around a mean computed from a state",
    module=Fixation,
    function=fixation,
    examples=(Example("B C", output="B 2, B, B 2"), Example("B C", {"std": 0.5}, output="B 2, B, B 2")),
    maps=(FixationMap,),
    selection="hard",
    flow="state -> W, tanh -> sample Gaussian -> location, log-probability",
)
