"""Networks that draw where they look: their answers, and the training of those whose draw is one item."""

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
from saccade.model_state import gpus_of
from saccade.training.loader import Batch
from saccade.training.module import Classifier


class MonteCarloClassifier(Classifier):
    """A classifier that draws where it looks, and looks several times.

    num_samples     at each image in evaluation; the answer is the mean of their probabilities. They are
              drawn by the recipe's seed: the same image gets the same answer in the same batch
    """

    def __init__(self, plan: Plan, task: TaskInfo, num_samples: int) -> None:
        super().__init__(plan, task)
        self.num_samples = num_samples

    def forward(self, images: Tensor) -> Tensor:
        """Return the logarithm of the mean probabilities over several looks, (B, classes)."""
        inputs = self.normalized(images)
        with torch.random.fork_rng(devices=gpus_of(self, (images,))):
            torch.manual_seed(self.recipe.seed)
            looks = [self.model(inputs).softmax(1) for _ in range(self.num_samples)]
        chances = torch.stack(looks).mean(0)
        return chances.clamp_min(torch.finfo(chances.dtype).tiny).log()


class Hard(MonteCarloClassifier):
    """A classifier that answers from one item drawn at random, trained by REINFORCE.

        L = -log p(y | s) - w (R - b) log p(s) - e H(s)        R = log p(y | s)        b <- d b + (1 - d) R

    Xu, Ba, Kiros, Cho, Courville, Salakhutdinov, Zemel, Bengio: Show, Attend and Tell, ICML 2015 (section
    4.1, equations 10 to 12). s is what a `hard_item` of the network draws, and H the entropy of the draw. Its
    gradient is, in the mean over draws, that of the bound -sum_s p(s) log p(y | s), for w = 1. With the
    estimator "gumbel" the item itself carries the gradient, and w is 0. A network without a `hard_item` is
    trained by cross entropy, so that a comparison can hold both. `train_loss` is the cross entropy.

    num_samples          at each image in evaluation, see `MonteCarloClassifier`; where nothing is drawn, 1
    samples_per_image  of each training image in a batch, each looked at in another way: Monte Carlo samples
                   of the gradient
    policy_weight  w
    entropy        e
    baseline       d, of the moving average of the rewards of the batches before; it starts at chance

    Deviation: the baseline is that of the batches before, without the present one. A draw is never replaced
    by its expectation, as the paper does for half of the images.

    Raises `BadOption` or `BadRecipe` for an option out of range.

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
        check_positive("hard", num_samples=num_samples, samples_per_image=samples_per_image)
        check_number("policy_weight", policy_weight)
        check_number("entropy", entropy)
        check_number("baseline", baseline, below=1)
        super().__init__(plan, task, num_samples)
        if not hard_items(self.model):
            self.num_samples = 1
        self.samples_per_image, self.policy_weight = samples_per_image, policy_weight
        self.entropy, self.baseline = entropy, baseline
        self.register_buffer("expected", torch.tensor(-math.log(len(task.classes))))

    def training_step(self, batch: Batch, _index: int) -> dict[str, Tensor]:
        batch = self.augment(batch[0]), batch[1]
        images, labels = (part.repeat_interleave(self.samples_per_image, 0) for part in batch)
        with choices(self.model) as chosen:
            logits = self._run(images)
        likelihood = -F.cross_entropy(logits, labels, reduction="none")
        reward = likelihood.detach().to(self.expected.dtype)
        advantage = reward - self.expected
        self.expected.lerp_(reward.mean(), 1 - self.baseline)
        wanted = logits.new_zeros(())
        for item, its in chosen:
            wanted = wanted + self.entropy * its.entropy.mean()
            if item.estimator == "reinforce":
                wanted = wanted + self.policy_weight * (advantage * its.log_probability).mean()
        wrong = (logits.argmax(1) != labels).sum() / self.samples_per_image
        # The gradient of what is wanted, but not its value, which says nothing of how well the network does.
        return {"loss": wanted.detach() - wanted - likelihood.mean(), "wrong": wrong}


def hard_items(model: nn.Module) -> list[HardItem]:
    return [module for module in model.modules() if isinstance(module, HardItem)]


@contextmanager
def choices(model: nn.Module) -> Iterator[list[tuple[HardItem, Chosen]]]:
    """Collect what each `hard_item` of a network draws while the block runs."""
    chosen: list[tuple[HardItem, Chosen]] = []
    hooks = [
        module.register_forward_hook(lambda its, _inputs, result: chosen.append((its, result)))
        for module in hard_items(model)
    ]
    try:
        yield chosen
    finally:
        for hook in hooks:
            hook.remove()
