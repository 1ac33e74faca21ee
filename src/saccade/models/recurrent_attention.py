"""The recurrent attention model (RAM), Mnih et al. 2014."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import BadOption, check_choice, check_positive, check_shape
from saccade.layers.hard.fixation import Fixation
from saccade.layers.sampling.glimpse import Glimpse
from saccade.maps import FixationMap, Tap


class Trajectory(NamedTuple):
    """What one look at each image gave.

    logits             (B, classes), after the last glimpse
    locations          (B, glimpses, 2), as sampled: those outside of [-1, 1] were clamped to be looked at
    log_probabilities  (B, glimpses - 1), of every location but the first, which nothing decides
    baselines          (B, glimpses - 1), the reward expected when that location was chosen
    """

    logits: Tensor
    locations: Tensor
    log_probabilities: Tensor
    baselines: Tensor


def hybrid_loss(trajectory: Trajectory, labels: Tensor, policy_weight: float = 1.0) -> Tensor:
    """Return cross entropy + baseline regression + REINFORCE, for the reward R = 1 if right, else 0.

        L = mean_b [ -log p(y_b) + mean_t (R_b - b_bt)^2 - w sum_t (R_b - b_bt) log pi(l_bt) ]

    Each term trains its own part: the classifier with core and glimpse network, the baseline, the policy.
    w `policy_weight`. labels (B,) -> ().

    >>> import torch
    >>> look = Trajectory(torch.zeros(4, 10), torch.zeros(4, 6, 2), torch.zeros(4, 5), torch.zeros(4, 5))
    >>> round(hybrid_loss(look, torch.ones(4, dtype=torch.long)).item(), 4)     # log 10, all wrong
    2.3026
    """
    reward = (trajectory.logits.detach().argmax(1) == labels).to(trajectory.baselines.dtype).unsqueeze(1)
    classification = F.cross_entropy(trajectory.logits, labels)
    if not trajectory.baselines.shape[1]:
        return classification  # a single glimpse decides nothing
    regression = (reward - trajectory.baselines).square().mean()
    advantage = reward - trajectory.baselines.detach()
    policy = -(advantage * trajectory.log_probabilities).sum(1).mean()
    return classification + regression + policy_weight * policy


class RecurrentAttention(nn.Module):
    """Classify an image from a few glimpses, each at a place chosen after those before it.

        g_t = ReLU(W_p ReLU(W_rho rho(x, l_t)) + W_q ReLU(W_l l_t))      l_{t+1} ~ N(tanh(W_m h_t), sigma^2)
        h_t = ReLU(W_g g_t + W_h h_{t-1})                                logits = W_a h_T

    Mnih, Heess, Graves, Kavukcuoglu: Recurrent Models of Visual Attention, NIPS 2014 (section 3, 4.1).
    rho `retina`; W_rho, W_l, W_p, W_q `see_patch`, `see_location`, `mix_patch`, `mix_location`; W_g, W_h
    `core_input`, `core_state` (or one LSTM cell, `core`); W_m `fixation.mean`; W_a `classifier`; b_t
    `baseline`. All of them have biases.

    images (B, in_channels, H, W) -> logits (B, classes), from one look: locations are random, in
    evaluation, too. `look` gives the whole trajectory, `hybrid_loss` what to minimize, `predict` the mean
    over several looks. Any H and W from 1 up. Recording gives the locations as one `FixationMap` at "".

    size, scales, scale_factor    of the patches, see `Glimpse`
    std        sigma, in units of half the image
    core       "relu", the paper's for images, or "lstm"
    start      the first location: uniform over the image ("random"), or its center ("center")
    hidden     width of g and h; the patch and the location are first mapped to half of it

    Gradients stop, as in the paper, at sampled locations; the policy and the baseline read h_t without
    changing it, so that the classifier alone trains the core and the glimpse network.

    Deviation: tanh in the policy, see `Fixation`. The paper does not say where the first glimpse lies.

    Raises `BadOption` for a width below 2 or a choice that does not exist, `BadShape` for other images.

    >>> import torch
    >>> model = RecurrentAttention(10, glimpses=6, size=8)
    >>> images, labels = torch.rand(4, 1, 28, 28), torch.tensor([3, 1, 4, 1])
    >>> model(images).shape
    torch.Size([4, 10])
    >>> hybrid_loss(model.look(images), labels).backward()
    """

    def __init__(
        self,
        classes: int,
        in_channels: int = 1,
        glimpses: int = 6,
        size: int = 8,
        scales: int = 1,
        scale_factor: int = 2,
        hidden: int = 256,
        std: float = 0.1,
        core: Literal["relu", "lstm"] = "relu",
        start: Literal["random", "center"] = "random",
    ) -> None:
        super().__init__()
        check_positive("RecurrentAttention", classes=classes, in_channels=in_channels, glimpses=glimpses)
        check_positive("RecurrentAttention", hidden=hidden)
        if hidden < 2:
            raise BadOption(f"RecurrentAttention: hidden={hidden} must be an integer of at least 2")
        check_choice("RecurrentAttention", "core", core, ("relu", "lstm"))
        check_choice("RecurrentAttention", "start", start, ("random", "center"))
        self.in_channels, self.glimpses, self.hidden, self.start = in_channels, glimpses, hidden, start
        self.retina = Glimpse(in_channels, size, scales, scale_factor)
        self.see_patch = nn.Linear(scales * in_channels * size**2, hidden // 2)
        self.see_location = nn.Linear(2, hidden // 2)
        self.mix_patch = nn.Linear(hidden // 2, hidden)
        self.mix_location = nn.Linear(hidden // 2, hidden)
        self.core = nn.LSTMCell(hidden, hidden) if core == "lstm" else None
        if core == "relu":
            self.core_input = nn.Linear(hidden, hidden)
            self.core_state = nn.Linear(hidden, hidden)
        self.fixation = Fixation(hidden, std)
        self.baseline = nn.Linear(hidden, 1)
        self.classifier = nn.Linear(hidden, classes)
        self.tap = Tap()

    def forward(self, images: Tensor) -> Tensor:
        return self.look(images).logits

    def look(self, images: Tensor) -> Trajectory:
        """Look at each image once, and keep the way."""
        check_shape("RecurrentAttention", images, "B C H W", C=self.in_channels)
        weight = self.classifier.weight
        state = cell = weight.new_zeros(images.shape[0], self.hidden)
        location = self._first(images).to(weight.dtype)
        locations, log_probabilities, baselines = [location], [], []
        for step in range(self.glimpses):
            state, cell = self._step(self._see(images, location.clamp(-1, 1)), state, cell)
            if step < self.glimpses - 1:
                location, log_probability, _ = self.fixation(state.detach())
                locations.append(location)
                log_probabilities.append(log_probability)
                baselines.append(self.baseline(state.detach())[:, 0])
        places = torch.stack(locations, 1)
        if self.tap.recording:
            height, width = images.shape[2:]
            extents = self.retina.extents(height, width)
            self.tap.publish(FixationMap(places.detach().clamp(-1, 1), extents, (height, width)))
        none = weight.new_zeros(images.shape[0], 0)
        return Trajectory(
            self.classifier(state),
            places,
            torch.stack(log_probabilities, 1) if log_probabilities else none,
            torch.stack(baselines, 1) if baselines else none,
        )

    @torch.no_grad()
    def predict(self, images: Tensor, samples_per_image: int = 10) -> Tensor:
        """Return the mean of the probabilities over `samples_per_image` looks at each image, (B, classes)."""
        check_positive("RecurrentAttention", samples_per_image=samples_per_image)
        check_shape("RecurrentAttention", images, "B C H W", C=self.in_channels)
        logits = self.look(images.repeat_interleave(samples_per_image, dim=0)).logits
        return logits.softmax(1).reshape(images.shape[0], samples_per_image, -1).mean(1)

    def _first(self, images: Tensor) -> Tensor:
        """The locations to begin with, (B, 2)."""
        shape = (images.shape[0], 2)
        if self.start == "center":
            return torch.zeros(shape, device=images.device)
        return 2 * torch.rand(shape, device=images.device) - 1

    def _see(self, images: Tensor, location: Tensor) -> Tensor:
        """The glimpse network: what is there, and where that is, (B, hidden)."""
        what = F.relu(self.see_patch(self.retina(images, location).flatten(1)))
        where = F.relu(self.see_location(location))
        return F.relu(self.mix_patch(what) + self.mix_location(where))

    def _step(self, seen: Tensor, state: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The core: the new state, and the cell of an LSTM."""
        if self.core is not None:
            state, cell = self.core(seen, (state, cell))
            return state, cell
        return F.relu(self.core_input(seen) + self.core_state(state)), cell
