"""The recurrent attention model (RAM), Mnih et al. 2014."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_option, check_choice, check_positive, check_shape
from saccade.layers.hard.fixation import Fixation
from saccade.layers.sampling.glimpse import Glimpse
from saccade.maps import FixationMap, Tap

Reward = Literal["final", "step"]

_POLICY_STD = 1e-3  # of the initial weights of the policy


class Trajectory(NamedTuple):
    """The result of one pass of glimpses over each image.

    Attributes:
        logits: Class logits after the last glimpse, (B, classes).
        locations: Locations as sampled, (B, glimpses, 2); those outside [-1, 1] are clamped for the glimpses.
        log_probabilities: Log-probabilities of all locations but the first, which is not sampled from the
            policy, (B, glimpses - 1).
        baselines: Rewards expected when these locations were sampled, (B, glimpses - 1).
        step_logits: Class logits after each glimpse, (B, glimpses, classes); the last are `logits`.
    """

    logits: Tensor
    locations: Tensor
    log_probabilities: Tensor
    baselines: Tensor
    step_logits: Tensor


def hybrid_loss(
    trajectory: Trajectory, labels: Tensor, policy_weight: float = 1.0, reward: Reward = "final"
) -> Tensor:
    """Return cross entropy + baseline regression + REINFORCE.

        L = mean_b [ C_b + mean_t (R_bt - b_bt)^2 - w sum_t (R_bt - b_bt) log pi(l_bt) ]

        "final": C_b = -log p_T(y_b)                               R_bt = 1 if correct at the end, else 0
        "step":  C_b = -log p_T(y_b) - mean_{t < T} log p_t(y_b)   R_bt = p_{t+1}(y_b)

    p_t(y_b) is the probability of the label of image b after t glimpses, b_bt the baseline at step t, pi the
    policy and l_bt the location of glimpse t + 1. With "final", the reward of the paper, all locations share
    one reward. With "step", the reward of a location is the probability after its glimpse: the locations
    after it add no variance.

    Args:
        trajectory: Result of `RecurrentAttention.look`.
        labels: Labels, (B,).
        policy_weight: Weight w of the REINFORCE term.
        reward: "final" or "step".

    Returns:
        The loss, a scalar.

    Raises:
        BadOption: If the reward is unknown.

    Example:
        >>> import torch
        >>> logits, expected = torch.zeros(4, 6, 10), torch.zeros(4, 5)
        >>> look = Trajectory(logits[:, -1], torch.zeros(4, 6, 2), torch.zeros(4, 5), expected, logits)
        >>> round(hybrid_loss(look, torch.ones(4, dtype=torch.long)).item(), 4)     # log 10, all wrong
        2.3026
    """
    check_choice("hybrid_loss", "reward", reward, get_args(Reward))
    classification = F.cross_entropy(trajectory.logits, labels)
    if not trajectory.baselines.shape[1]:
        return classification  # a single glimpse samples no location
    if reward == "final":
        correct = trajectory.logits.detach().argmax(1) == labels
        rewards = correct.to(trajectory.baselines.dtype).unsqueeze(1)
    else:
        likelihoods = trajectory.step_logits.log_softmax(2)[torch.arange(len(labels)), :, labels]
        classification = classification - likelihoods[:, :-1].mean()
        rewards = likelihoods[:, 1:].detach().exp()
    regression = (rewards - trajectory.baselines).square().mean()
    advantage = rewards - trajectory.baselines.detach()
    policy = -(advantage * trajectory.log_probabilities).sum(1).mean()
    return classification + regression + policy_weight * policy


class RecurrentAttention(nn.Module):
    """Classifies an image from a few glimpses, with locations sampled one after the other.

        g_t = ReLU(W_p ReLU(W_rho rho(x, l_t)) + W_q ReLU(W_l l_t))      l_{t+1} ~ N(tanh(W_m h_t), sigma^2)
        h_t = ReLU(W_g g_t + W_h h_{t-1})                                logits = W_a h_T

    x is the image, l_t the location at step t, g_t the output of the glimpse network and h_t the state. rho
    is `retina`; W_rho, W_l, W_p and W_q are `see_patch`, `see_location`, `mix_patch` and `mix_location`; W_g
    and W_h are `core_input` and `core_state` (or one LSTM cell, `core`); W_m is `fixation.mean`, W_a
    `classifier` and the baseline b_t `baseline`. All of them have biases.

    Calling the model returns the logits of one pass; locations are random, also in evaluation. `look` returns
    the whole trajectory, `hybrid_loss` the loss, and `predict` the mean over several passes. Recording gives
    the locations as one `FixationMap` at "". As in the paper, gradients stop at sampled locations. The
    baseline reads h_t without gradient, and so does the policy by default: the classifier alone then trains
    the core and the glimpse network.

    References:
        Mnih, Heess, Graves, Kavukcuoglu: Recurrent Models of Visual Attention, NIPS 2014 (sections 3 and
        4.1). Le, Jaitly, Hinton: A Simple Way to Initialize Recurrent Networks of Rectified Linear Units,
        2015.

    Args:
        classes: Number of classes.
        in_channels: Number of input channels.
        glimpses: Number of glimpses T, at least 1.
        size: Height and width of the patches in pixels, see `Glimpse`.
        scales: Number of patches per glimpse, see `Glimpse`.
        scale_factor: Ratio of the widths of consecutive patches, see `Glimpse`.
        hidden: Width of g and h, at least 2; patch and location are first mapped to half of it.
        std: Standard deviation sigma of the policy, above 0, in units of half the image.
        core: "relu", the recurrence above, which the paper uses for images; or "lstm".
        start: First location: uniform over the image ("random"), or its center ("center").
        detach: Whether the policy reads h_t without gradient. False lets REINFORCE train the core and the
            glimpse network too, as the recipes do with `hybrid_loss(reward="step")`.

    Shape:
        - Input: (B, in_channels, H, W), any H and W.
        - Output: (B, classes).

    Raises:
        BadOption: If an option is out of range.
        BadShape: For any other input shape.

    Note:
        The mean of the policy passes through tanh, see `Fixation`. The paper specifies neither the first
        location nor the initial weights. W_h starts as the identity (Le et al. 2015), so that the loss after
        the last glimpse has a gradient in the first; W_m starts near 0, where tanh has a gradient.

    Example:
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
        detach: bool = True,
    ) -> None:
        super().__init__()
        sizes = {"classes": classes, "in_channels": in_channels, "glimpses": glimpses, "hidden": hidden}
        check_positive("RecurrentAttention", **sizes)
        if hidden < 2:
            raise bad_option("RecurrentAttention", "must be an integer of at least 2", hidden=hidden)
        check_choice("RecurrentAttention", "core", core, ("relu", "lstm"))
        check_choice("RecurrentAttention", "start", start, ("random", "center"))
        self.in_channels, self.glimpses, self.hidden = in_channels, glimpses, hidden
        self.start, self.detach = start, detach
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
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights: He et al. before a ReLU, an identity for W_h, near 0 for W_m."""
        inputs = [self.see_patch, self.see_location, self.mix_patch, self.mix_location]
        if self.core is None:
            inputs.append(self.core_input)
            nn.init.eye_(self.core_state.weight)
            nn.init.zeros_(self.core_state.bias)
        for layer in inputs:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.fixation.mean.weight, std=_POLICY_STD)
        nn.init.zeros_(self.fixation.mean.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.look(images).logits

    def look(self, images: Tensor) -> Trajectory:
        """Process each image once and return the whole trajectory."""
        check_shape("RecurrentAttention", images, "B C H W", C=self.in_channels)
        weight = self.classifier.weight
        state = cell = weight.new_zeros(images.shape[0], self.hidden)
        location = weight.new_zeros(images.shape[0], 2)
        if self.start == "random":
            location = (2 * torch.rand(location.shape, device=images.device) - 1).to(weight.dtype)
        locations, log_probabilities, baselines, states = [location], [], [], []
        for step in range(self.glimpses):
            glimpse = self._see(images, location.clamp(-1, 1))
            if self.core is not None:
                state, cell = self.core(glimpse, (state, cell))
            else:
                state = F.relu(self.core_input(glimpse) + self.core_state(state))
            states.append(state)
            if step < self.glimpses - 1:
                location, log_probability, _ = self.fixation(state.detach() if self.detach else state)
                locations.append(location)
                log_probabilities.append(log_probability)
                baselines.append(self.baseline(state.detach())[:, 0])
        stacked = torch.stack(locations, 1)
        if self.tap.recording:
            height, width = images.shape[2:]
            extents = self.retina.extents(height, width)
            self.tap.publish(FixationMap(stacked.detach().clamp(-1, 1), extents, (height, width)))
        none = weight.new_zeros(images.shape[0], 0)
        logits = self.classifier(torch.stack(states, 1))
        return Trajectory(
            logits[:, -1],
            stacked,
            torch.stack(log_probabilities, 1) if log_probabilities else none,
            torch.stack(baselines, 1) if baselines else none,
            logits,
        )

    @torch.no_grad()
    def predict(self, images: Tensor, samples_per_image: int = 10) -> Tensor:
        """Return the mean of the class probabilities over several passes, (B, classes).

        Args:
            images: Images, (B, in_channels, H, W).
            samples_per_image: Number of passes over each image, at least 1.
        """
        check_positive("RecurrentAttention", samples_per_image=samples_per_image)
        check_shape("RecurrentAttention", images, "B C H W", C=self.in_channels)
        logits = self.look(images.repeat_interleave(samples_per_image, dim=0)).logits
        return logits.softmax(1).reshape(images.shape[0], samples_per_image, -1).mean(1)

    def _see(self, images: Tensor, location: Tensor) -> Tensor:
        """Return the output of the glimpse network, (B, hidden)."""
        what = F.relu(self.see_patch(self.retina(images, location).flatten(1)))
        where = F.relu(self.see_location(location))
        return F.relu(self.mix_patch(what) + self.mix_location(where))
