"""The sanity check: does the heat map change when the network forgets what it has learned?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import BadOption, BadShape, UnknownName, check_shape
from saccade.metrics.layers import find_layers, given_back, randomize
from saccade.model_state import gpus_of, preserve_state

Heat = Callable[[nn.Module], Tensor]


@dataclass(frozen=True, eq=False)
class Sanity:
    """How alike heat maps stay while layer after layer loses its weights, each with those before it.

    layers      L paths, in the order in which they lost their weights: from the output to the input
    reaches     L flags: whether the layer runs before the map is made, so that its weights can change it.
                Where not, the map stays as it is of necessity, and that says nothing about it
    spearman    (L, B), Spearman's rank correlation with the original map, -1 to 1
    ssim        (L, B), the structural similarity to it, -1 to 1

    >>> one = torch.ones(1, 2)
    >>> Sanity(("head",), (True,), spearman=-one, ssim=one / 2).mean()["spearman"]
    1.0
    """

    layers: tuple[str, ...]
    reaches: tuple[bool, ...]
    spearman: Tensor
    ssim: Tensor

    def mean(self) -> dict[str, Any]:
        """Return the averages over the images: after the whole cascade, and after each layer.

        The rank correlation counts without its sign: a map that has been inverted shows the same places.
        """
        rank, ssim = self.spearman.abs().mean(1).tolist(), self.ssim.mean(1).tolist()
        rows = zip(self.layers, self.reaches, rank, ssim, strict=True)
        keys = ("path", "reaches", "spearman", "ssim")
        return {
            "spearman": rank[-1],
            "ssim": ssim[-1],
            "layers": [dict(zip(keys, row, strict=True)) for row in rows],
        }


def sanity(
    model: nn.Module,
    heat: Heat,
    *,
    at: str | None = None,
    layers: Sequence[str] | None = None,
    seed: int = 0,
) -> Sanity:
    """Draw the weights of a model anew, layer by layer from the output, and see how its heat maps change.

    This is the cascading randomization of Adebayo et al.: Sanity Checks for Saliency Maps, NeurIPS 2018
    (section 3). A map that stays alike when all weights are random shows the image, not what the network
    has learned from it.

    model   any module; it runs in evaluation mode and is given back bit for bit, also after an error
    heat    model -> heat maps (B, H, W), each time of the same images; gradients are on, and any random
            numbers that it draws are the same each time
    at      the path of the module that makes the map, if one does, as an attention does: the layers that run
            after it cannot change the map. None: all layers can, as in Grad-CAM
    layers  paths in the order in which to randomize them, each with all that is below it; by default every
            module with parameters of its own, the one that runs last in `heat` first
    seed    of the new weights

    A layer is drawn anew by the `reset_parameters` of each module in it, which sets the statistics of
    a batch norm back as well; parameters of a module that has no such method become normal numbers of mean 0
    and of the parameter's own root mean square, so that what is zero stays zero.

    The similarities are those of `scipy.stats.spearmanr` and, of maps scaled to [0, 1] image by image, of
    `skimage.metrics.structural_similarity` with windows of 7 x 7, or what fits. A map that is the same
    everywhere is like another such map, and like nothing else: 1 or 0.

    Deviation: the authors draw new weights from a truncated normal distribution.

    Raises `UnknownName` for a path that no module has; `BadOption` for a layer without parameters, a model
    that is scripted or compiled, a module at `at` that does not run, and heat that is not finite; `BadShape`
    for heat of other shapes, or of less than 3 x 3. Needs scipy and scikit-image.

    >>> import torch, saccade as sc
    >>> from saccade.models import SmallCNN
    >>> model, images = SmallCNN(2, attention={2: "cbam"}), torch.rand(2, 3, 32, 32)
    >>> def heat(model):
    ...     with sc.record(model) as maps:
    ...         model(images)
    ...     return maps["attention.2"].heatmap((32, 32))
    >>> scores = sanity(model, heat, at="attention.2")
    >>> scores.layers[0], scores.reaches[0], scores.spearman[0].tolist()    # it runs after the attention
    ('head', False, [1.0, 1.0])
    """
    if isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        raise BadOption(
            "a scripted or compiled model cannot be randomized; give the module that it was made from"
        )
    modules = dict(model.named_modules())
    for path in [*(layers or ()), *([] if at is None else [at])]:
        if path not in modules:
            raise UnknownName("module", path, modules)
    rank, ssim = [], []
    with preserve_state(model, ()), given_back(model), torch.enable_grad():
        generators = [
            torch.default_generator,
            *(torch.cuda.default_generators[i] for i in gpus_of(model, ())),
        ]

        def draw(number: int) -> None:
            for generator in generators:
                generator.manual_seed(seed + number)

        def look(when: str) -> Tensor:
            draw(0)
            return _checked(heat(model), when)

        original, order = find_layers(model, lambda: look("before anything was randomized"), at, layers)
        ranks = _ranks(original)
        for number, layer in enumerate(order, start=1):
            draw(number)
            randomize(layer)
            changed = look(f"after {layer.path!r} was randomized")
            if changed.shape != original.shape:
                raise BadShape(
                    f"sanity: heat returned {tuple(original.shape)}, then {tuple(changed.shape)}; "
                    "it must show the same images each time"
                )
            rank.append(_correlation(ranks, _ranks(changed)))
            ssim.append(_structural_similarity(original, changed))
    return Sanity(
        tuple(layer.path for layer in order),
        tuple(layer.reaches for layer in order),
        torch.stack(rank),
        torch.stack(ssim),
    )


def _checked(heatmap: Tensor, when: str) -> Tensor:
    check_shape("sanity: heat", heatmap, "B H W")
    if min(heatmap.shape[1:]) < 3:
        raise BadShape(f"sanity: heat returned {tuple(heatmap.shape)}; maps of 3 x 3 or more can be compared")
    if wrong := int((~torch.isfinite(heatmap)).sum()):
        raise BadOption(f"sanity: {wrong} values of the heat map are not finite {when}")
    return heatmap.detach().double().cpu()


def _ranks(heat: Tensor) -> Tensor:
    """Return the rank of each pixel in its image, equals at their mean rank, less the mean rank: (B, N)."""
    from scipy.stats import rankdata

    ranks = torch.from_numpy(rankdata(heat.flatten(1).numpy(), axis=1))
    return ranks - ranks.mean(1, keepdim=True)


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Return Pearson's correlation of centerd values, image by image: of ranks it is Spearman's."""
    squares = one.square().sum(1), other.square().sum(1)
    norm = (squares[0] * squares[1]).sqrt()
    both_flat = (squares[0] == 0) & (squares[1] == 0)
    return torch.where(norm > 0, (one * other).sum(1) / norm, both_flat.double()).clamp(-1, 1)


def _structural_similarity(one: Tensor, other: Tensor) -> Tensor:
    from skimage.metrics import structural_similarity

    side = min(7, *one.shape[1:])
    pairs = zip(_unit(one).numpy(), _unit(other).numpy(), strict=True)
    window = side - (side + 1) % 2
    return torch.tensor(
        [structural_similarity(a, b, win_size=window, data_range=1.0) for a, b in pairs], dtype=torch.float64
    )


def _unit(heat: Tensor) -> Tensor:
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    return (heat - low) / torch.where(high > low, high - low, torch.ones_like(high))
