"""Where training starts from: the weights of another run or of a library, and which of them stay."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor

from saccade.config import Choice
from saccade.errors import BadRecipe
from saccade.models.backbone import input_of, load_backbone
from saccade.training.checkpoint import checkpoint_of, load_checkpoint
from saccade.training.module import Classifier
from saccade.training.network import attention_paths, is_own

Weights = dict[str, Tensor]


def check_initial_weights(classifier: Classifier) -> None:
    """Raise `BadRecipe` or `BadRun` for what `start` and `freeze` would stumble over. Downloads nothing."""
    recipe = classifier.recipe
    if recipe.pretrained and is_own(classifier.plan.backbone):
        raise BadRecipe(f"pretrained=true: there are no weights for backbone={recipe.backbone!r}")
    if recipe.pretrained and recipe.cifar_stem:
        raise BadRecipe("pretrained=true has no weights for cifar_stem=true")
    if recipe.layer_decay is not None and not hasattr(classifier.model, "group_matcher"):
        raise BadRecipe(
            f"layer_decay={recipe.layer_decay} is for networks of timm, which say what their layers are; "
            f"{recipe.backbone!r} does not"
        )
    if recipe.init_from is not None:
        _see_that_they_fit(classifier, _body(classifier, _of_run(recipe.init_from)))
    freeze(classifier)


def load_initial_weights(classifier: Classifier) -> None:
    """Load the weights that the recipe starts from, and their normalization, but for the head."""
    recipe = classifier.recipe
    if recipe.init_from is not None:
        theirs = _of_run(recipe.init_from)
    elif recipe.pretrained:
        theirs = _of_library(classifier.plan.backbone)
    else:
        return
    body = _body(classifier, theirs)
    _see_that_they_fit(classifier, body)
    classifier.model.load_state_dict(body, strict=False)
    classifier.mean.copy_(theirs["mean"])
    classifier.std.copy_(theirs["std"])


def freeze(classifier: Classifier) -> None:
    """Keep the recipe's frozen weights from being trained, and their modules in evaluation mode."""
    model, chosen = classifier.model, classifier.recipe.freeze
    if not chosen:
        return
    names = [name for name, _ in model.named_parameters()]
    if chosen is True:
        fixed = {name for name in names if not _is_new(classifier, name)}
    else:
        found = {pattern: [name for name in names if fnmatchcase(name, pattern)] for pattern in chosen}
        for pattern, its in found.items():
            if not its:
                raise BadRecipe(
                    f"freeze: no weight is named {pattern!r}; there are {names[0]!r}, {names[1]!r} ..."
                )
        fixed = {name for its in found.values() for name in its}
    if len(fixed) == len(names):
        raise BadRecipe(f"freeze={chosen!r} leaves no weight to train")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in fixed)
    weights = ((module, list(module.parameters())) for module in model.modules())
    classifier.frozen = [module for module, its in weights if its and not any(p.requires_grad for p in its)]
    classifier.train()


def _of_run(path: str) -> Weights:
    state: Weights = load_checkpoint(checkpoint_of(Path(path)))["state_dict"]
    return state


def _of_library(backbone: Choice) -> Weights:
    """Return a library's weights, and the normalization that they know, under a checkpoint's names."""
    model = load_backbone(backbone.name, pretrained=True, **backbone.options)
    _, mean, std = input_of(model)
    return {f"model.{name}": its for name, its in model.state_dict().items()} | {"mean": mean, "std": std}


def _body(classifier: Classifier, theirs: Weights) -> Weights:
    """Return the weights of a network without those of its head."""
    names = {name: name.removeprefix("model.") for name in theirs if name.startswith("model.")}
    return {names[name]: theirs[name] for name in names if not _is_below(names[name], classifier.head())}


def _see_that_they_fit(classifier: Classifier, theirs: Weights) -> None:
    recipe = classifier.recipe
    source = (
        f"init={recipe.init_from!r}" if recipe.init_from is not None else f"pretrained {recipe.backbone!r}"
    )
    ours = classifier.model.state_dict()
    for name, weight in theirs.items():
        if name not in ours:
            raise BadRecipe(f"{source} does not fit: the network has no weight {name!r}")
        if weight.shape != ours[name].shape:
            shapes = f"{tuple(weight.shape)}, not {tuple(ours[name].shape)}"
            raise BadRecipe(f"{source} does not fit: {name!r} is of shape {shapes}")
    for name in ours:
        if name not in theirs and not _is_new(classifier, name):
            raise BadRecipe(f"{source} does not fit: it has no weight {name!r}")


def _is_new(classifier: Classifier, name: str) -> bool:
    """Whether a weight is of the head or of the attention, which other networks need not have."""
    return any(_is_below(name, path) for path in (classifier.head(), *attention_paths(classifier.model)))


def _is_below(name: str, path: str) -> bool:
    return name == path or name.startswith(path + ".")
