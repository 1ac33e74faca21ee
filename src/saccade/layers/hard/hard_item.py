"""Stochastic hard attention to one item, Xu et al. 2015."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from saccade.errors import check_choice, check_positive_number, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap

Estimator = Literal["reinforce", "gumbel"]


class Chosen(NamedTuple):
    """A sampled item.

    Attributes:
        item: The item, (B, C).
        position: Index of the item in the sequence, (B,).
        log_probability: Log-probability of the choice, (B,).
        entropy: Entropy of the distribution, (B,).
    """

    item: Tensor
    position: Tensor
    log_probability: Tensor
    entropy: Tensor


def hard_item(
    items: Tensor, logits: Tensor, estimator: Estimator = "reinforce", temperature: float = 1.0
) -> Chosen:
    """Sample one item of each sequence from softmax(logits).

    Args:
        items: Items, (B, L, C).
        logits: Unnormalized log-probabilities, (B, L).
        estimator: "reinforce" or "gumbel", see `HardItem`.
        temperature: Temperature of the "gumbel" estimator, above 0.
    """
    log_probabilities = logits.log_softmax(1)
    # Noise in float32 makes a seed give the same choices for every dtype.
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
    """Selects one item of a sequence at random, with learned probabilities.

        e_i = w x_i        s ~ Categorical(softmax(e))        y = x_s

    x_i is an item, w is `score` (without a bias, to which the softmax is invariant), e_i the score of an
    item, s the sampled index and y the output. Items are sampled in training and in evaluation;
    `torch.manual_seed` makes the choices reproducible. The recorded map holds the probabilities, (B, L) or
    (B, H, W).

    References:
        Xu, Ba, Kiros, Cho, Courville, Salakhutdinov, Zemel, Bengio: Show, Attend and Tell: Neural Image
        Caption Generation with Visual Attention, ICML 2015 (section 4.1, equations 4, 5 and 8 to 12).

        Jang, Gu, Poole: Categorical Reparameterization with Gumbel-Softmax, ICLR 2017 (estimator "gumbel").

    Args:
        channels: Width C of an item.
        estimator: How w is trained. "reinforce": by the log-probability; add -(R - b) log_probability to the
            loss, for a reward R and a baseline b, and the entropy with a small negative weight, as in the
            paper. "gumbel": by the item, with a straight-through gradient: the forward pass returns x_s, the
            backward pass is that of sum_i p_i x_i, where p = softmax((e + Gumbel noise) / temperature). This
            estimator is biased and has a low variance.
        temperature: Temperature of the "gumbel" estimator, above 0.

    Shape:
        - Input: (B, L, C), or (B, C, H, W), whose positions are the items in row-major order.
        - Output: `Chosen` with item (B, C), position (B,), log_probability (B,) and entropy (B,).

    Raises:
        BadOption: If the estimator is unknown, or the temperature is not above 0.
        BadShape: For any other input shape.

    Note:
        The paper scores items against the state of a decoder. Here each item is scored by itself;
        `hard_item(items, logits)` accepts any other scores. Sampling uses the Gumbel-max trick, so that NaN
        does not raise an error.

    Example:
        >>> import torch
        >>> chosen = HardItem(32)(torch.randn(4, 10, 32))
        >>> chosen.item.shape, chosen.position.shape
        (torch.Size([4, 32]), torch.Size([4]))
    """

    def __init__(self, channels: int, estimator: Estimator = "reinforce", temperature: float = 1.0) -> None:
        super().__init__()
        check_choice("hard_item", "estimator", estimator, ("reinforce", "gumbel"))
        check_positive_number("hard_item", temperature=temperature)
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
    summary="sample one item of a sequence with learned probabilities",
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
    flow="items -> [scores -> softmax -> sample | ] -> select -> item",
)
