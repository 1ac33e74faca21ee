"""InfoNCE losses, which contrast positive pairs with negative ones.

All losses are cross entropies over logits, computed and returned in float32 or higher precision, so that
logits of several hundred neither overflow nor vanish in half precision. Label values are checked, except
under compilation and on the meta device; there, labels without a positive or a negative give NaN.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.errors import BadData, bad_shape, check_positive_number, check_shape


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Return the loss of SimCLR: each of 2 N views is matched with the other view of the same image.

        s_ij = z_i . z_j / (|z_i| |z_j|)
        l(i, j) = -log exp(s_ij / t) / sum_{k != i} exp(s_ik / t)                             (equation 1)
        loss = 1 / 2N sum_{n=1}^{N} l(n, n + N) + l(n + N, n)

    z_i are the rows of [first; second], so that n and n + N are views of the same image; s_ij is their cosine
    similarity and t the temperature.

    References:
        Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual
        Representations, ICML 2020.

    Args:
        first: Embeddings of the first views, (N, D), for at least 2 images.
        second: Embeddings of the second views, (N, D).
        temperature: Temperature t, above 0.

    Returns:
        The loss, a scalar.

    Raises:
        BadShape: If the shapes differ, or N is 1, so that there is no negative.
        BadOption: If the temperature is not above 0.

    Example:
        >>> import torch
        >>> z = torch.eye(4)
        >>> round(nt_xent(z, z, temperature=1.0).item(), 4)      # -log(e / (e + 6))
        1.1654
    """
    check_positive_number("nt_xent", temperature=temperature)
    check_shape("nt_xent", first, "N D")
    check_shape("nt_xent", second, "N D", N=first.shape[0], D=first.shape[1])
    images = first.shape[0]
    if images < 2:
        raise bad_shape("nt_xent", "negatives need at least two images", first)
    logits = _similarities(torch.cat([first, second]), temperature)
    partner = torch.arange(2 * images, device=logits.device).roll(images)
    return F.cross_entropy(logits, partner)


def supervised(embeddings: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the supervised contrastive loss: each embedding is matched with all others of its class.

        P(i) = {p != i : c_p = c_i}
        l_i = -1 / |P(i)| sum_{p in P(i)} log exp(s_ip / t) / sum_{a != i} exp(s_ia / t)      (equation 2)
        loss = mean of l_i over all i with a P(i) that is not empty

    s are the cosine similarities of the embeddings as in `nt_xent`, c the labels, P(i) the positives of i and
    t the temperature. With two views of each image as its class, the loss equals `nt_xent`.

    References:
        Khosla et al.: Supervised Contrastive Learning, NeurIPS 2020 (L_out).

    Args:
        embeddings: Embeddings, (N, D).
        labels: Labels, (N,), integers or booleans.
        temperature: Temperature t, above 0.

    Returns:
        The loss, a scalar.

    Raises:
        BadShape: If the numbers of labels and embeddings differ.
        BadData: If labels are not integers, no class has two embeddings, or there is only one class.
        BadOption: If the temperature is not above 0.

    Note:
        The loss is the mean over i, as in the authors' code, where the paper has the sum. It is not
        multiplied by t / 0.07 as in that code. Embeddings that are alone in their class are excluded from the
        mean.

    Example:
        >>> import torch
        >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> round(supervised(z, torch.tensor([0, 0, 1, 1]), temperature=1.0).item(), 4)   # -log(e / (e + 2))
        0.5514
    """
    check_positive_number("supervised", temperature=temperature)
    check_shape("supervised", embeddings, "N D")
    check_shape("supervised", labels, "N", N=embeddings.shape[0])
    if labels.is_floating_point() or labels.is_complex():
        raise BadData.of("supervised", f"labels are {labels.dtype}, expected integers", labels=labels.dtype)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    same = (labels[:, None] == labels) & ~itself
    positives = same.sum(1)
    if _readable(labels):
        all_labels = f"all {len(labels)} labels"
        if not same.any():
            raise BadData.of("supervised", f"{all_labels} differ, so there is no positive", labels=None)
        if (positives == len(labels) - 1).all():
            raise BadData.of("supervised", f"{all_labels} are equal, so there is no negative", labels=None)
    log_probabilities = _similarities(embeddings, temperature).log_softmax(dim=1)
    sums = torch.where(same, log_probabilities, 0).sum(1)  # 0 * -inf on the diagonal is NaN
    losses = -sums / positives.clamp(min=1)
    return losses.sum() / (positives > 0).sum()


def pairs(scores: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the pair loss: the mean score of positive pairs against that of negative pairs.

        p = mean of s_i with c_i = 1        n = mean of s_i with c_i = 0
        loss = -log exp(p / t) / (exp(p / t) + exp(n / t))

    s are the scores, c the labels, p and n the two means and t the temperature. This is InfoNCE with one
    positive and one negative logit, each of which is a mean over the batch. Only the difference of the means
    matters, so the loss does not determine a threshold between positive and negative pairs. The gradient of a
    score depends only on its label, so the model should bound its scores, or training should be brief.

    References:
        van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive Coding, arXiv 2018
        (equation 4).

    Args:
        scores: Scores, (N,).
        labels: 1 for positive and 0 for negative pairs, (N,), booleans or numbers.
        temperature: Temperature t, above 0.

    Returns:
        The loss, a scalar.

    Raises:
        BadShape: If the numbers of labels and scores differ.
        BadData: If a label is neither 0 nor 1, or one of the two is missing.
        BadOption: If the temperature is not above 0.

    Note:
        The paper contrasts one positive with many negatives; here means replace both.

    Example:
        >>> import torch
        >>> loss = pairs(torch.tensor([3.0, 1.0, 0.0]), torch.tensor([1, 1, 0]))   # log(1 + exp(0 - 2))
        >>> round(loss.item(), 4)
        0.1269
    """
    check_positive_number("pairs", temperature=temperature)
    check_shape("pairs", scores, "N")
    check_shape("pairs", labels, "N", N=scores.shape[0])
    positive, negative = labels == 1, labels == 0
    if _readable(labels):
        if len(others := labels[~(positive | negative)]):
            wrong = others[0].item()
            raise BadData.of("pairs", f"a label is {wrong}, expected 0 or 1", labels=wrong)
        for value, mask, kind in ((1, positive, "positive"), (0, negative, "negative")):
            if not mask.any():
                problem = f"none of the {len(labels)} labels is {value}, so there is no {kind}"
                raise BadData.of("pairs", problem, labels=None)
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    means = [torch.where(mask, wide, 0).sum() / mask.sum() for mask in (positive, ~positive)]
    return -F.logsigmoid((means[0] - means[1]) / temperature)


def _similarities(embeddings: Tensor, temperature: float) -> Tensor:
    """Return the cosine similarities divided by the temperature, (N, N), with -inf on the diagonal."""
    wide = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
    device = "cpu" if wide.is_meta else wide.device.type  # meta has no autocast
    with torch.autocast(device, enabled=False):  # autocast would compute the product in half precision
        unit = F.normalize(wide, dim=1)
        logits = unit @ unit.T / temperature
    return logits.masked_fill(torch.eye(len(unit), dtype=torch.bool, device=unit.device), -math.inf)


def _readable(labels: Tensor) -> bool:
    """Return whether label values can be checked: not on the meta device or while a graph is traced."""
    return not labels.is_meta and not torch.compiler.is_compiling()
