"""Sanity check: whether a heat map changes when the weights of the network are randomized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade._torch import uncompiled
from saccade.annotations import check_arguments
from saccade.errors import BadOption, BadShape, UnknownName, check_shape
from saccade.maps import normalize
from saccade.metrics.checks import check_finite
from saccade.metrics.layers import find_layers, preserve_parameters, randomize
from saccade.model_state import gpus_of, preserve_state

HeatmapFn = Callable[[nn.Module], Tensor]
_OWNER = "sanity_check"


@dataclass(frozen=True, eq=False)
class Sanity:
    """Similarity of heat maps to the original while layers are randomized one after the other.

    Attributes:
        layers: L paths in the order of randomization, from the output to the input.
        reaches: L flags: whether the layer runs before the map is computed, so that its weights can change
            the map. If not, the map cannot change, and its similarity says nothing about it.
        spearman: `(L, B)`, Spearman's rank correlation with the original map, in [-1, 1].
        ssim: `(L, B)`, structural similarity to the original map, in [-1, 1].

    Example:
        >>> one = torch.ones(1, 2)
        >>> Sanity(("head",), (True,), spearman=-one, ssim=one / 2).mean()["spearman"]
        1.0
    """

    layers: tuple[str, ...]
    reaches: tuple[bool, ...]
    spearman: Tensor
    ssim: Tensor

    def mean(self) -> dict[str, Any]:
        """Return the means over the images, after all layers and after each layer.

        The rank correlation is averaged without its sign: an inverted map marks the same places.
        """
        rank, ssim = self.spearman.abs().mean(1).tolist(), self.ssim.mean(1).tolist()
        rows = zip(self.layers, self.reaches, rank, ssim, strict=True)
        keys = ("path", "reaches", "spearman", "ssim")
        return {
            "spearman": rank[-1],
            "ssim": ssim[-1],
            "layers": [dict(zip(keys, row, strict=True)) for row in rows],
        }


def sanity_check(
    model: nn.Module,
    heat: HeatmapFn,
    *,
    at: str | None = None,
    layers: Sequence[str] | None = None,
    seed: int = 0,
) -> Sanity:
    """Randomize the weights of a model layer by layer from the output, and compare its heat maps.

    This is the cascading randomization of Adebayo et al. A map that stays similar when all weights are random
    shows the image, not what the network has learned.

    A layer is randomized by the `reset_parameters` of each of its modules, which also resets the statistics
    of a batch norm. Parameters of a module without this method are drawn from a normal distribution with mean
    0 and the root mean square of the parameter, so that zeros stay zero.

    The similarities are those of `scipy.stats.spearmanr` and, for maps scaled to [0, 1] image by image, of
    `skimage.metrics.structural_similarity` with windows of 7 x 7 or the largest that fits. A constant map has
    similarity 1 to a constant map and 0 to any other.

    References:
        Adebayo et al.: Sanity Checks for Saliency Maps, NeurIPS 2018 (section 3).

    Args:
        model: Any module. It runs in evaluation mode and is restored exactly, also after an error.
        heat: Maps the model to heat maps of the same images at each call. Gradients are enabled, and random
            numbers that it draws are the same at each call.
        at: Path of the module that computes the map, if there is one, as for attention: layers that run after
            it cannot change the map. None: all layers can, as for Grad-CAM.
        layers: Paths of the layers in the order of randomization; a path includes its submodules. Default:
            each module with parameters of its own, the one that runs last in `heat` first.
        seed: Seed of the new weights.

    Returns:
        Similarities after each layer.

    Raises:
        UnknownName: If a path does not exist.
        BadOption: If a layer holds no parameters, the model is scripted or compiled, the module at `at` does
            not run, or the heat is not finite.
        BadShape: If the heat has another shape, or is smaller than 3 x 3.

    Shape:
        - heat: `(B, H, W)`

    Note:
        The authors draw the new weights from a truncated normal distribution. The function needs scipy and
        scikit-image.

    Example:
        >>> import torch, saccade as sc
        >>> from saccade.models import SmallCNN
        >>> model, images = SmallCNN(2, attention={2: "cbam"}), torch.rand(2, 3, 32, 32)
        >>> def heat(model):
        ...     with sc.record(model) as maps:
        ...         model(images)
        ...     return maps["attention.2"].heatmap((32, 32))
        >>> scores = sanity_check(model, heat, at="attention.2")
        >>> scores.layers[0], scores.reaches[0], scores.spearman[0].tolist()    # runs after the attention
        ('head', False, [1.0, 1.0])
    """
    check_arguments(sanity_check, locals())
    if isinstance(model, torch.jit.ScriptModule) or uncompiled(model) is not model:
        problem = "cannot randomize a scripted or compiled model; pass the original module"
        raise BadOption.of(_OWNER, problem, model=type(model).__name__)
    modules = dict(model.named_modules())
    for path in [*(layers or ()), *([] if at is None else [at])]:
        if path not in modules:
            raise UnknownName("module", path, modules, owner=_OWNER)
    rank, ssim = [], []
    with preserve_state(model, ()), preserve_parameters(model), torch.enable_grad():
        on_gpus = [torch.cuda.default_generators[i] for i in gpus_of(model, ())]

        def draw(number: int) -> None:
            for generator in (torch.default_generator, *on_gpus):
                generator.manual_seed(seed + number)

        def compute(when: str) -> Tensor:
            draw(0)
            return _checked(heat(model), when)

        original, order = find_layers(model, lambda: compute(" before randomization"), at, layers)
        ranks = _ranks(original)
        for number, layer in enumerate(order, start=1):
            draw(number)
            randomize(layer)
            changed = compute(f" after {layer.path!r} was randomized")
            if changed.shape != original.shape:
                first, second = tuple(original.shape), tuple(changed.shape)
                problem = f"heat returned {first}, then {second}, expected the same shape"
                raise BadShape.of(_OWNER, problem, heat=second)
            rank.append(_correlation(ranks, _ranks(changed)))
            ssim.append(_structural_similarity(original, changed))
    paths, reaches = zip(*((layer.path, layer.reaches) for layer in order), strict=True)
    return Sanity(paths, reaches, torch.stack(rank), torch.stack(ssim))


def _checked(heatmap: Tensor, when: str) -> Tensor:
    check_shape(f"{_OWNER}: heat", heatmap, "B H W")
    if min(heatmap.shape[1:]) < 3:
        shape = tuple(heatmap.shape)
        raise BadShape.of(_OWNER, f"heat returned {shape}, expected maps of at least 3 x 3", heat=shape)
    check_finite(_OWNER, heatmap, when)
    return heatmap.detach().double().cpu()


def _ranks(heat: Tensor) -> Tensor:
    """Return the rank of each pixel in its image minus the mean rank, (B, N); ties share their mean rank."""
    from scipy.stats import rankdata

    ranks = torch.from_numpy(rankdata(heat.flatten(1).numpy(), axis=1))
    return ranks - ranks.mean(1, keepdim=True)


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Return Pearson's correlation of centered values image by image; for ranks it is Spearman's."""
    squares = one.square().sum(1), other.square().sum(1)
    norm = (squares[0] * squares[1]).sqrt()
    both_flat = (squares[0] == 0) & (squares[1] == 0)
    return torch.where(norm > 0, (one * other).sum(1) / norm, both_flat.double()).clamp(-1, 1)


def _structural_similarity(one: Tensor, other: Tensor) -> Tensor:
    from skimage.metrics import structural_similarity

    side = min(7, *one.shape[1:])
    pairs = zip(normalize(one).numpy(), normalize(other).numpy(), strict=True)
    window = side - (side + 1) % 2
    return torch.tensor(
        [structural_similarity(a, b, win_size=window, data_range=1.0) for a, b in pairs], dtype=torch.float64
    )
