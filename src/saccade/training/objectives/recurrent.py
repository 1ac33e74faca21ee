"""Training of the recurrent attention model, which chooses where it looks."""

from __future__ import annotations

from typing import ClassVar, get_args

from torch import Tensor
from torch.nn import functional as F

from saccade.config import Plan
from saccade.data import TaskInfo
from saccade.errors import BadRecipe, check_choice
from saccade.models import RecurrentAttention, hybrid_loss
from saccade.models.recurrent_attention import Reward
from saccade.training.loader import Batch
from saccade.training.objectives.hard import MonteCarloClassifier


class Recurrent(MonteCarloClassifier):
    """A recurrent attention model, trained by its hybrid loss: cross-entropy, baseline and REINFORCE.

    See `saccade.models.hybrid_loss`; `train_loss` is its cross-entropy. The model receives values in [0, 1],
    in gray if it has one channel.

    References:
        Mnih, Heess, Graves, Kavukcuoglu. Recurrent Models of Visual Attention. NIPS 2014.

    Args:
        plan: The plan.
        task: What the model needs to know about the data.
        num_samples: Forward passes per image in evaluation, see `MonteCarloClassifier`.
        samples_per_image: Draws per training image: Monte Carlo samples of the gradient.
        policy_weight: Weight of REINFORCE in the loss.
        reward: "final", 1 if the last answer is correct; or "step", the probability of the label after each
            glimpse, whose gradient has a lower variance.

    Raises:
        BadOption: A number of samples is not positive, or the reward is unknown.
        BadRecipe: The weight is out of range, or the backbone is not `ram`.

    Example:
        >>> import torch
        >>> from saccade.config import Recipe, resolve
        >>> from saccade.data import TaskInfo
        >>> task = TaskInfo(("a", "b"), (3, 28, 28), torch.zeros(3), torch.ones(3))
        >>> classifier = Recurrent(resolve(Recipe(backbone="ram:glimpses=3")), task, num_samples=2)
        >>> classifier(torch.zeros(4, 3, 28, 28)).softmax(1).shape
        torch.Size([4, 2])
    """

    ignored_keys: ClassVar = ("attention", "mixup", "label_smoothing", "compile")
    model: RecurrentAttention

    def __init__(
        self,
        plan: Plan,
        task: TaskInfo,
        num_samples: int = 10,
        samples_per_image: int = 1,
        policy_weight: float = 1.0,
        reward: Reward = "final",
    ) -> None:
        check_choice("recurrent", "reward", reward, get_args(Reward))
        super().__init__(plan, task, num_samples, samples_per_image, policy_weight)
        self.reward: Reward = reward
        backbone = plan.backbone.text
        message = f"objective='recurrent' needs backbone='ram[:option=value,...]', not {backbone!r}"
        if not isinstance(self.model, RecurrentAttention):
            raise BadRecipe(message, owner="recurrent", option="backbone", value=backbone)

    def normalize(self, images: Tensor) -> Tensor:
        unit = images.to(self.mean.dtype) / 255
        return unit.mean(1, keepdim=True) if self.model.in_channels == 1 else unit

    def training_step(self, batch: Batch, _index: int) -> dict[str, Tensor]:
        images, labels = self.training_samples(batch)
        trajectory = self.model.look(self.normalize(images))
        wrong = (trajectory.logits.argmax(1) != labels).sum() / self.samples_per_image
        loss = hybrid_loss(trajectory, labels, self.policy_weight, self.reward)
        # The value is that of the cross-entropy: that of REINFORCE does not measure the model's quality.
        shown = F.cross_entropy(trajectory.logits.detach(), labels)
        return {"loss": loss - loss.detach() + shown, "wrong": wrong}
