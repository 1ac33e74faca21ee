"""Stochastic hard attention to one item, Xu et al. 2015."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from saccade.errors import BadOption, check_choice, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap

Estimator = Literal["reinforce", "gumbel"]


class Chosen(NamedTuple):
    """The item (B, C), its position (B,), its log-probability (B,), and the entropy of the choice (B,)."""

    item: Tensor
    position: Tensor
    log_probability: Tensor
    entropy: Tensor


def hard_item(
    items: Tensor, logits: Tensor, estimator: Estimator = "reinforce", temperature: float = 1.0
) -> Chosen:
    """Sample one item of each sequence from softmax(logits). items (B, L, C), logits (B, L) -> `Chosen`."""
    log_probabilities = logits.log_softmax(1)
    # The noise is drawn in float32 whatever the dtype, so that a seed means the same choices in each.
    noise = torch.empty(logits.shape, device=logits.device, dtype=torch.float32).exponential_()
    perturbed = logits - noise.log().to(logits.dtype)
    index = perturbed.argmax(1)
    if estimator == "gumbel":
        soft = (perturbed / temperature).softmax(1)
        hard = torch.zeros_like(soft).scatter(1, index[:, None], 1.0)
        weights = hard + (soft - soft.detach())
        item = torch.einsum("bl,blc->bc", weights, items)
    else:
        item = items.gather(1, index[:, None, None].expand(-1, 1, items.shape[2]))[:, 0]
    log_probability = log_probabilities.gather(1, index[:, None])[:, 0]
    entropy = -(log_probabilities.exp() * log_probabilities).sum(1)
    return Chosen(item, index, log_probability, entropy)


class HardItem(nn.Module):
    """Look at one item of a sequence, drawn at random with learned probabilities.

        e_i = w x_i        s ~ Categorical(softmax(e))        y = x_s

    Xu, Ba, Kiros, Cho, Courville, Salakhutdinov, Zemel, Bengio: Show, Attend and Tell, ICML 2015 (section
    4.1, equations 4, 5 and 8 to 12). w `score`. Without a bias: softmax would not see it.

    items (B, L, C), or a map (B, C, H, W) whose places are the items, row by row -> `Chosen`: item (B, C),
    position (B,), log_probability (B,), entropy (B,). Items are drawn in training and evaluation alike;
    `torch.manual_seed` repeats them. What trains w is

    "reinforce"   the log-probability: add -(R - b) log_probability to the loss, for a reward R and a
                  baseline b, and, as the paper does, entropy with a small negative weight
    "gumbel"      the item itself, straight through: forward it is x_s, backward sum_i p_i x_i for p the
                  softmax of (e + Gumbel noise) / temperature (Jang et al. 2017). Biased, of low variance

    The recorded map holds the probabilities (B, L), or (B, H, W), from which the choice was made.

    Deviation: the paper scores items against the state of its decoder; here an item is scored by itself,
    and `hard_item(items, logits)` takes any other scores. The choice is made by the Gumbel-max trick, so
    that NaN does not stop the program.

    Raises `BadOption` unless the temperature is above 0, `BadShape` for any other input.

    >>> import torch
    >>> chosen = HardItem(32)(torch.randn(4, 10, 32))
    >>> chosen.item.shape, chosen.position.shape
    (torch.Size([4, 32]), torch.Size([4]))
    """

    def __init__(self, channels: int, estimator: Estimator = "reinforce", temperature: float = 1.0) -> None:
        super().__init__()
        check_choice("hard_item", "estimator", estimator, ("reinforce", "gumbel"))
        is_number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
        if not is_number or not 0 < temperature < math.inf:
            raise BadOption(f"hard_item: temperature={temperature!r} must be a number above 0")
        self.channels, self.estimator, self.temperature = channels, estimator, temperature
        self.score = nn.Linear(channels, 1, bias=False)
        self.tap = Tap()

    def forward(self, items: Tensor) -> Chosen:
        check_shape("hard_item", items, "B C H W" if items.ndim == 4 else "B L C", C=self.channels)
        extents = items.shape[2:] if items.ndim == 4 else items.shape[1:2]
        if items.ndim == 4:
            items = items.flatten(2).transpose(1, 2)
        logits = self.score(items)[..., 0]
        if self.tap.recording:
            self.tap.publish(SpatialMap(logits.detach().softmax(1).unflatten(1, extents)))
        return hard_item(items, logits, self.estimator, self.temperature)


SPEC = Spec(
    name="hard_item",
    domain="hard",
    paper=Paper(
        "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention",
        "Xu, Ba, Kiros, Cho, Courville, Salakhutdinov, Zemel, Bengio",
        2015,
        "https://arxiv.org/abs/1502.03044",
    ),
    summary="draw one item of a sequence with learned probabilities",
    module=HardItem,
    function=hard_item,
    examples=(
        Example("B L C", output="B C, B, B, B"),
        Example("B C H W", output="B C, B, B, B"),
        Example("B L C", {"estimator": "gumbel", "temperature": 0.5}, output="B C, B, B, B"),
    ),
    maps=(SpatialMap,),
    selection="hard",
    unit="item",
    flow="items -> [scores -> softmax -> draw one | ] -> pick -> item",
)
