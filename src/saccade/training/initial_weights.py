"""Initial weights: loaded from another run or a library, and partly frozen."""

from __future__ import annotations

import warnings
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from saccade.errors import BadRecipe, bad_recipe
from saccade.models import input_of, join_differences, list_differences, load_backbone, overwrite_state
from saccade.training.checkpoint import checkpoint_of, load_checkpoint
from saccade.training.module import Classifier
from saccade.training.network import attention_paths, is_built_in

Weights = dict[str, Tensor]


def check_initial_weights(classifier: Classifier) -> None:
    """Check `pretrained`, `init_from`, `freeze` and `layer_decay` of a recipe. Downloads nothing.

    Raises:
        BadRecipe: The weights do not fit, or an option does not apply to the backbone.
        BadRun: `init_from` is not a run or a checkpoint.
    """
    recipe = classifier.recipe
    is_other = is_built_in(classifier.plan.backbone)
    if recipe.pretrained and (is_other or recipe.cifar_stem):
        model = f"backbone={recipe.backbone!r}" if is_other else "cifar_stem=true"
        raise bad_recipe(f"does not apply: there are no weights for {model}", pretrained=recipe.pretrained)
    if isinstance(recipe.pretrained, str):
        with torch.random.fork_rng(devices=[]):
            _load_library(classifier)
    if recipe.layer_decay is not None and not hasattr(classifier.model, "group_matcher"):
        expected = f"needs a timm model, which defines its layers, not {recipe.backbone!r}"
        raise bad_recipe(expected, layer_decay=recipe.layer_decay)
    if recipe.init_from is not None:
        _check_fit(classifier, _without_head(classifier, _load_run(recipe.init_from)))
    freeze(classifier)


def load_initial_weights(classifier: Classifier) -> None:
    """Load the weights that the recipe names and their normalization.

    The head keeps its random weights, unless `pretrained` has one for the same number of classes.
    """
    recipe = classifier.recipe
    if recipe.init_from is not None:
        weights = _load_run(recipe.init_from)
    elif recipe.pretrained:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # `prepare` has warned
            weights = _load_library(classifier)
    else:
        return
    body = _without_head(classifier, weights)
    _check_fit(classifier, body)
    overwrite_state(classifier.model, body)
    if recipe.init_from is None:
        _load_head(classifier, weights)
    classifier.mean.copy_(weights["mean"])
    classifier.std.copy_(weights["std"])


def freeze(classifier: Classifier) -> None:
    """Freeze the weights that the recipe names, and keep their modules in evaluation mode.

    Raises:
        BadRecipe: A pattern matches no weight, or no weight remains to be trained.
    """
    model, patterns = classifier.model, classifier.recipe.freeze
    if not patterns:
        return
    names = [name for name, _ in model.named_parameters()]
    frozen: set[str] = set()
    if patterns is True:
        frozen = {name for name in names if not _is_new(classifier, name)}
    else:
        for pattern in patterns:
            matches = {name for name in names if fnmatchcase(name, pattern)}
            if not matches:
                message = f"freeze: no weight matches {pattern!r}; there are {names[0]!r}, {names[1]!r} ..."
                raise BadRecipe(message, option="freeze", value=pattern, choices=names)
            frozen |= matches
    if len(frozen) == len(names):
        raise bad_recipe("leaves no weight to train", freeze=patterns)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    classifier.frozen_modules = _frozen_modules(model)
    classifier.train()


def _frozen_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules without a weight that is trained. Attention in a module is not a part of it."""
    inserted = {m for path in attention_paths(model) for m in model.get_submodule(path).modules()}
    weights = {id(weight) for module in inserted for weight in module.parameters()}
    frozen: dict[nn.Module, None] = {}
    for module in model.modules():
        is_inserted = module in inserted
        own = [p.requires_grad for p in module.parameters() if is_inserted or id(p) not in weights]
        if own and not any(own):
            frozen |= dict.fromkeys(m for m in module.modules() if is_inserted or m not in inserted)
    return list(frozen)


def _load_run(path: str) -> Weights:
    state: Weights = load_checkpoint(checkpoint_of(Path(path)))["state_dict"]
    return state


def _load_library(classifier: Classifier) -> Weights:
    """Return the weights that `pretrained` names and their normalization, under the names of a checkpoint."""
    backbone, classes = classifier.plan.backbone, len(classifier.hparams["classes"])
    pretrained = classifier.recipe.pretrained
    model = load_backbone(backbone.name, classes=classes, pretrained=pretrained, **backbone.options)
    _, mean, std = input_of(model)
    weights = {f"model.{name}": weight for name, weight in model.state_dict().items()}
    return weights | {"mean": mean, "std": std}


def _without_head(classifier: Classifier, weights: Weights) -> Weights:
    """Return the weights of a model without those of its head."""
    names = {name: name.removeprefix("model.") for name in weights if name.startswith("model.")}
    return {names[name]: weights[name] for name in names if not _is_below(names[name], classifier.head())}


def _load_head(classifier: Classifier, weights: Weights) -> None:
    """Load the weights of the head of a library's model, unless the objective has a head of another kind."""
    path = f"model.{classifier.head()}"
    state = {name: weight for name, weight in weights.items() if _is_below(name, path)}
    own = {name: weight for name, weight in classifier.state_dict().items() if _is_below(name, path)}
    if not list_differences(own, state):
        overwrite_state(classifier, state)


def _check_fit(classifier: Classifier, weights: Weights) -> None:
    """Raise `BadRecipe` unless weights fit the model. Only the head and the attention may lack some."""
    recipe = classifier.recipe
    source = {"pretrained": recipe.backbone} if recipe.init_from is None else {"init_from": recipe.init_from}
    model = classifier.model.state_dict().items()
    needed = {name: weight for name, weight in model if name in weights or not _is_new(classifier, name)}
    differences = list_differences(needed, weights)
    if differences:
        raise bad_recipe(f"does not fit: {join_differences(differences)}", **source)


def _is_new(classifier: Classifier, name: str) -> bool:
    """Return whether a weight belongs to the head or the attention, which other models need not have."""
    return any(_is_below(name, path) for path in (classifier.head(), *attention_paths(classifier.model)))


def _is_below(name: str, path: str) -> bool:
    return name == path or name.startswith(path + ".")
