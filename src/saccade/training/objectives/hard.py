"""Classifiers with random attention: Monte Carlo prediction, and training by REINFORCE."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.config import Plan, check_number
from saccade.data import TaskInfo
from saccade.errors import check_positive
from saccade.layers.hard.hard_item import Chosen, HardItem
from saccade.model_state import gpus_of, temporary_hooks
from saccade.training.loader import Batch
from saccade.training.module import Classifier


class MonteCarloClassifier(Classifier):
    """A classifier whose forward pass is random, trained by REINFORCE, that predicts a mean over passes.

    In evaluation, the draws are seeded by the recipe, so that the same batch always has the same prediction.

    Args:
        plan: The plan.
        task: What the model needs to know about the data.
        num_samples: Forward passes per image in evaluation, whose probabilities are averaged.
        samples_per_image: Draws per training image: Monte Carlo samples of the gradient.
        policy_weight: Weight of REINFORCE in the loss.

    Raises:
        BadOption: A number of samples is not positive.
        BadRecipe: The weight is out of range.
    """

    def __init__(
        self,
        plan: Plan,
        task: TaskInfo,
        num_samples: int = 10,
        samples_per_image: int = 1,
        policy_weight: float = 1.0,
    ) -> None:
        owner = type(self).__name__.lower()
        check_positive(owner, num_samples=num_samples, samples_per_image=samples_per_image)
        check_number("policy_weight", policy_weight)
        super().__init__(plan, task)
        self.num_samples, self.samples_per_image = num_samples, samples_per_image
        self.policy_weight = policy_weight

    def forward(self, images: Tensor) -> Tensor:
        """Return the logarithm of the mean probabilities, `(B, classes)`."""
        inputs = self.normalize(images)
        with torch.random.fork_rng(devices=gpus_of(self, (images,))):
            torch.manual_seed(self.recipe.seed)
            samples = [self.model(inputs).softmax(1) for _ in range(self.num_samples)]
        probabilities = torch.stack(samples).mean(0)
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()

    def training_samples(self, batch: Batch) -> Batch:
        """Return an augmented batch with each image and label once per draw."""
        images, labels = self.augment(batch[0]), batch[1]
        count = self.samples_per_image
        return images.repeat_interleave(count, 0), labels.repeat_interleave(count, 0)


class Hard(MonteCarloClassifier):
    """A classifier with hard attention, which draws one item, trained by REINFORCE.

        L = -log p(y | s) - w (R - b) log p(s) - e H(s)        R = log p(y | s)        b <- d b + (1 - d) R

    `s` is the item that a `hard_item` of the model draws, and `H` the entropy of the draw. For `w = 1`, the
    expected gradient is that of the bound `-sum_s p(s) log p(y | s)`. With `estimator="gumbel"` the gradient
    passes through the item itself, and `w` is 0. A model without a `hard_item` is trained by cross-entropy,
    so that one comparison can include both. `train_loss` is the cross-entropy.

    References:
        Xu, Ba, Kiros, Cho, Courville, Salakhutdinov, Zemel, Bengio. Show, Attend and Tell: Neural Image
        Caption Generation with Visual Attention. ICML 2015. Section 4.1, equations 10 to 12.

    Args:
        plan: The plan.
        task: What the model needs to know about the data.
        num_samples: Forward passes per image in evaluation, see `MonteCarloClassifier`; 1 for a model
            without a `hard_item`.
        samples_per_image: Draws per training image: Monte Carlo samples of the gradient.
        policy_weight: The weight `w` of REINFORCE.
        entropy: The weight `e` of the entropy.
        baseline: The decay `d` of the moving average of rewards, which starts at chance level.

    Raises:
        BadOption: A number of samples is not positive.
        BadRecipe: A weight or the decay is out of range.

    Note:
        The baseline `b` excludes the current batch. The paper replaces the draw by its expectation for half
        of the images; this implementation always draws.

    Example:
        >>> from saccade.config import Recipe, resolve
        >>> from saccade.data import TaskInfo
        >>> task = TaskInfo(("a", "b"), (3, 28, 28), torch.zeros(3), torch.ones(3))
        >>> classifier = Hard(resolve(Recipe(attention="hard_item")), task, num_samples=2)
        >>> classifier(torch.zeros(4, 3, 28, 28)).softmax(1).shape
        torch.Size([4, 2])
    """

    ignored_keys: ClassVar = ("mixup", "label_smoothing", "compile")
    expected: Tensor

    def __init__(
        self,
        plan: Plan,
        task: TaskInfo,
        num_samples: int = 10,
        samples_per_image: int = 1,
        policy_weight: float = 1.0,
        entropy: float = 0.01,
        baseline: float = 0.9,
    ) -> None:
        check_number("entropy", entropy)
        check_number("baseline", baseline, below=1)
        super().__init__(plan, task, num_samples, samples_per_image, policy_weight)
        if not hard_items(self.model):
            self.num_samples = 1
        self.entropy, self.baseline = entropy, baseline
        self.register_buffer("expected", torch.tensor(-math.log(len(task.classes))))

    def training_step(self, batch: Batch, _index: int) -> dict[str, Tensor]:
        images, labels = self.training_samples(batch)
        with record_draws(self.model) as draws:
            logits = self.forward_training(images)
        likelihood = -F.cross_entropy(logits, labels, reduction="none")
        reward = likelihood.detach().to(self.expected.dtype)
        advantage = reward - self.expected
        self.expected.lerp_(reward.mean(), 1 - self.baseline)
        objective = logits.new_zeros(())
        for module, draw in draws:
            objective = objective + self.entropy * draw.entropy.mean()
            if module.estimator == "reinforce":
                objective = objective + self.policy_weight * (advantage * draw.log_probability).mean()
        wrong = (logits.argmax(1) != labels).sum() / self.samples_per_image
        # Adds the gradient of the objective, but not its value, which does not measure the model's quality.
        return {"loss": objective.detach() - objective - likelihood.mean(), "wrong": wrong}


def hard_items(model: nn.Module) -> list[HardItem]:
    """Return the `hard_item` modules of a model."""
    return [module for module in model.modules() if isinstance(module, HardItem)]


@contextmanager
def record_draws(model: nn.Module) -> Iterator[list[tuple[HardItem, Chosen]]]:
    """Record what each `hard_item` of a model draws while the block runs."""
    draws: list[tuple[HardItem, Chosen]] = []
    hooks = (
        item.register_forward_hook(lambda module, _inputs, draw: draws.append((module, draw)))
        for item in hard_items(model)
    )
    with temporary_hooks(hooks):
        yield draws
