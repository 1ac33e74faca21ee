"""InfoNCE losses: tell what belongs together from what does not.

All three are cross entropies over logits, computed in float32 at least, whatever the inputs are, and
returned so: logits of hundreds neither overflow nor vanish in half precision. Labels are looked at unless
the call is being compiled or on the meta device; there, labels without a positive or a negative give NaN.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.errors import BadData, BadOption, BadShape, check_shape


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Return SimCLR's loss: each of 2 N views has to find the other view of its image among all others.

        s_ij = z_i . z_j / (|z_i| |z_j|)
        l(i, j) = -log exp(s_ij / t) / sum_{k != i} exp(s_ik / t)                             (equation 1)
        loss = 1 / 2N sum_{n=1}^{N} l(n, n + N) + l(n + N, n)

    Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual Representations,
    ICML 2020. z the rows of [first; second], so that n and n + N are views of one image, t `temperature`.

    first (N, D), second (N, D), N at least 2 -> a scalar.

    Deviation: none.

    Raises `BadShape` if the shapes differ or N is 1, where no view is a negative; `BadOption` for a
    temperature that is not positive.

    >>> import torch
    >>> z = torch.eye(4)
    >>> round(nt_xent(z, z, temperature=1.0).item(), 4)      # -log(e / (e + 6))
    1.1654
    """
    check_temperature("nt_xent", temperature)
    check_shape("nt_xent", first, "N D")
    check_shape("nt_xent", second, "N D", N=first.shape[0], D=first.shape[1])
    images = first.shape[0]
    if images < 2:
        raise BadShape(f"nt_xent: one image, {tuple(first.shape)}, has no negatives; it takes two at least")
    logits = _similarities(torch.cat([first, second]), temperature)
    partner = torch.arange(2 * images, device=logits.device).roll(images)
    return F.cross_entropy(logits, partner)


def supervised(embeddings: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the supervised form: each embedding has to find all others of its class.

        P(i) = {p != i : c_p = c_i}
        l_i = -1 / |P(i)| sum_{p in P(i)} log exp(s_ip / t) / sum_{a != i} exp(s_ia / t)      (equation 2)
        loss = mean of l_i over all i with a P(i) that is not empty

    Khosla et al.: Supervised Contrastive Learning, NeurIPS 2020 (L_out). s the cosine similarities of the
    embeddings as in `nt_xent`, c `labels`, t `temperature`. With two views of each image as its class, it is
    `nt_xent`.

    embeddings (N, D), labels (N,), integers or bool -> a scalar.

    Deviations: the mean over i, as in the authors' code, where the paper writes the sum; not multiplied by
    t / 0.07, as their code does. Embeddings that are alone in their class are left out of the mean.

    Raises `BadShape` unless there is one label per embedding, `BadData` if no class has two embeddings or
    there is only one class, `BadOption` for a temperature that is not positive.

    >>> import torch
    >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> round(supervised(z, torch.tensor([0, 0, 1, 1]), temperature=1.0).item(), 4)   # -log(e / (e + 2))
    0.5514
    """
    check_temperature("supervised", temperature)
    check_shape("supervised", embeddings, "N D")
    check_shape("supervised", labels, "N", N=embeddings.shape[0])
    if labels.is_floating_point() or labels.is_complex():
        raise BadData(f"supervised: labels are {labels.dtype}, expected integers")
    alone = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same = (labels[:, None] == labels) & ~alone
    positives = same.sum(1)
    if _readable(labels):
        if not same.any():
            raise BadData(f"supervised: no two of the {len(labels)} labels agree, so there is no positive")
        if (positives == len(labels) - 1).all():
            raise BadData(f"supervised: all {len(labels)} labels agree, so there is no negative")
    log_shares = _similarities(embeddings, temperature).log_softmax(dim=1)
    found = torch.where(same, log_shares, 0).sum(1)  # not a product: -inf stands on the diagonal
    losses = -found / positives.clamp(min=1)
    return losses.sum() / (positives > 0).sum()


def pairs(scores: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the pair form: the mean score of the positive pairs against that of the negative ones.

        p = mean of s_i with c_i = 1        n = mean of s_i with c_i = 0
        loss = -log exp(p / t) / (exp(p / t) + exp(n / t))

    It is InfoNCE with one positive and one negative logit, each of them a mean over the batch:
    van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive Coding, arXiv 2018
    (equation 4). s `scores`, c `labels`, t `temperature`.

    scores (N,), labels (N,), bool or numbers 0 and 1 -> a scalar.

    Only the difference of the means counts: a threshold between same and different is not learnt with it.
    The gradient of a score depends on its label alone, so the scores should be bounded by their model, or
    trained briefly.

    Deviation: the paper takes one positive among many negatives; means take the place of both here.

    Raises `BadShape` unless there is one label per score, `BadData` for other labels than 0 and 1 or if one
    of the two is missing, `BadOption` for a temperature that is not positive.

    >>> import torch
    >>> loss = pairs(torch.tensor([3.0, 1.0, 0.0]), torch.tensor([1, 1, 0]))   # log(1 + exp(0 - 2))
    >>> round(loss.item(), 4)
    0.1269
    """
    check_temperature("pairs", temperature)
    check_shape("pairs", scores, "N")
    check_shape("pairs", labels, "N", N=scores.shape[0])
    positive = labels == 1
    if _readable(labels):
        if not (positive | (labels == 0)).all():
            wrong = labels[~(positive | (labels == 0))][0].item()
            raise BadData(f"pairs: a label is {wrong}, expected 0 for different or 1 for same")
        for value, kind in ((1, "positive"), (0, "negative")):
            if not (labels == value).any():
                raise BadData(f"pairs: none of the {len(labels)} labels is {value}, so there is no {kind}")
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    means = [torch.where(chosen, wide, 0).sum() / chosen.sum() for chosen in (positive, ~positive)]
    return -F.logsigmoid((means[0] - means[1]) / temperature)


def _similarities(embeddings: Tensor, temperature: float) -> Tensor:
    """Return the cosine similarities over the temperature, (N, N), each row without itself: -inf."""
    wide = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    device = "cpu" if wide.is_meta else wide.device.type  # there is no autocast for meta
    with torch.autocast(device, enabled=False):  # it would take the product in half precision
        unit = F.normalize(wide, dim=1)
        logits = unit @ unit.T / temperature
    return logits.masked_fill(torch.eye(len(unit), dtype=torch.bool, device=unit.device), -math.inf)


def _readable(labels: Tensor) -> bool:
    """Whether the values can be looked at: not on the meta device, not while a graph is traced."""
    return not labels.is_meta and not torch.compiler.is_compiling()


def check_temperature(owner: str, temperature: float) -> None:
    """Raise `BadOption` unless a temperature is a positive number."""
    if (
        isinstance(temperature, bool)
        or not isinstance(temperature, int | float)
        or not 0 < temperature < math.inf
    ):
        raise BadOption(f"{owner}: temperature={temperature!r} must be a positive number")
