"""The recipe: everything that determines a run, as one readable YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from saccade.attachment.site import Kind
from saccade.errors import BadRecipe, UnknownName
from saccade.files import check_schema, write_text

Schedule = Literal["one-cycle", "cosine", "step", "constant"]
Augment = Literal["none", "flip", "crop", "crop-flip", "scale", "scale-flip"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"]


SCHEMA = 2  # of recipe files


@dataclass(frozen=True)
class Recipe:
    """One training run.

    task            NAME[:option=value,...], see `saccade.data`
    attention       NAME[:option=value,...][@PLACE[+PLACE...]] of a mechanism, or "none". PLACE, where other
                    than `stage` and `where` say: of a backbone a kind of place or the path of a module, of
                    the small network the number of a stage: "bam@layer1+layer2", "cbam@1+2+3"
    objective  how it is trained, NAME[:option=value,...]: "classify", by cross entropy; "recurrent", a
                    recurrent attention model by its hybrid loss; "hard", attention that draws one item, by
                    REINFORCE; "contrastive", by telling views of one image from those of others, see
                    `saccade.training.objectives.select`
    backbone        "small", the first experiment's `SmallCNN` or, for clips, `ClipCNN`;
                    "ram[:option=value,...]", the recurrent attention model, or "vit[:option=value,...]", a
                    vision transformer, see `saccade.models`; or a network of torchvision or timm by name,
                    with options: "timm:resnet18:channels=[16,32,64,128]"
    pretrained      whether a network of torchvision or timm starts from the library's weights
    init_from  a run's folder, or a checkpoint, from whose weights the network starts; null: none. Its
                    head, and attention that the run did not have, start anew
    freeze          what is not trained: true for all but the head and the attention, or a list of patterns
                    of the names of weights, as ["layer1.*", "conv1.*"]
    layer_decay     by which the rates of each layer of a network of timm are multiplied towards the image;
                    null: one rate
    label_fraction  the share of the training images of each class whose labels are used
    cifar_stem      of a backbone: whether a ResNet begins as for images of 32 pixels: its first convolution
                    becomes 3 x 3 without a stride, and its pooling is left out
    stage           the stage of the small network after which the attention stands, 1 to 3; one that pools
                    takes the place of the mean over the places of an image or the frames of a clip
    where           the kind of place of a backbone in which the attention stands, see `saccade.sites`
    identity        whether attention in a backbone starts as the identity, or as its paper says
    seed            of the initial weights and of the order of the images
    epochs          passes over the training images
    batch_size      images of one step
    optimizer       a name of timm's, as adamw, sgd, lamb
    learning_rate   at its highest
    weight_decay    of all weights, as the optimizer means it
    schedule        of the learning rate: "one-cycle", "cosine" to 0, "step" down to a
                    tenth after half and after three quarters of the epochs, "constant"
    augment         of training images: "crop" at random after a padding of an eighth, or "scale", a part of
                    8% of the area or more, resized; "flip" left and right; "crop-flip", "scale-flip"; "none"
    label_smoothing the share of each label that is spread over all classes
    mixup           alpha of the mixtures of pairs of images, Zhang et al. 2018; 0: none
    ema_decay  decay of the running average of the weights that is validated and tested; 0: none
    grad_clip  largest norm of the gradient; null: any
    grad_accum_steps  batches per step of the optimizer
    precision       as Lightning names it: "32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"
    compile         whether the network is compiled
    early_stopping_patience  stop after this many epochs without a better validation error; null: never

    Raises `BadRecipe` for a value that is out of range.

    >>> Recipe(optimizer="sgd", learning_rate=0.1, schedule="cosine", augment="crop-flip").epochs
    6
    """

    task: str = "white-patch"
    attention: str = "none"
    objective: str = "classify"
    backbone: str = "small"
    pretrained: bool = False
    init_from: str | None = None
    freeze: bool | list[str] = False
    layer_decay: float | None = None
    label_fraction: float = 1.0
    cifar_stem: bool = False
    stage: int = 2
    where: Kind = "residual"
    identity: bool = False
    seed: int = 0
    epochs: int = 6
    batch_size: int = 50
    optimizer: str = "adamw"
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    schedule: Schedule = "one-cycle"
    augment: Augment = "none"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    ema_decay: float = 0.0
    grad_clip: float | None = None
    grad_accum_steps: int = 1
    precision: Precision = "32-true"
    compile: bool = False
    early_stopping_patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("stage", "epochs", "batch_size", "grad_accum_steps"):
            check_integer(name, getattr(self, name), at_least=1)
        check_integer("seed", self.seed, at_least=0)
        if self.early_stopping_patience is not None:
            check_integer("early_stopping_patience", self.early_stopping_patience, at_least=1)
        for name in ("learning_rate", "weight_decay", "mixup"):
            check_number(name, getattr(self, name))
        for name in ("label_smoothing", "ema_decay"):
            check_number(name, getattr(self, name), below=1)
        for name in ("grad_clip", "layer_decay"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        check_number("label_fraction", self.label_fraction)
        if not 0 < self.label_fraction <= 1:
            raise BadRecipe(f"label_fraction={self.label_fraction!r} must be a share above 0 and at most 1")
        for name in ("task", "attention", "objective", "backbone", "optimizer"):
            if not isinstance(getattr(self, name), str):
                is_choice = name in ("task", "attention", "objective")
                form = "text of the form NAME[:option=value,...]" if is_choice else "a name"
                raise BadRecipe(f"{name}={getattr(self, name)!r} must be {form}")
        hints = get_type_hints(type(self))
        for name in ("where", "schedule", "augment", "precision"):
            if getattr(self, name) not in get_args(hints[name]):
                among = ", ".join(map(repr, get_args(hints[name])))
                raise BadRecipe(f"{name}={getattr(self, name)!r} is not one of {among}")
        for name in ("identity", "compile", "pretrained", "cifar_stem"):
            if not isinstance(getattr(self, name), bool):
                raise BadRecipe(f"{name}={getattr(self, name)!r} must be true or false")
        if not isinstance(self.freeze, bool) and not _are_names(self.freeze):
            raise BadRecipe(f"freeze={self.freeze!r} must be true, false or a list of patterns")
        if self.init_from is not None and (not isinstance(self.init_from, str) or self.pretrained):
            raise BadRecipe(
                f"init_from={self.init_from!r} must be the path of a run, and pretrained then false"
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Recipe:
        """Build a recipe from YAML's keys. Raises `UnknownName` for a key that it does not have."""
        if "attentions" in values:
            raise BadRecipe("the recipe is that of a comparison, with attentions: saccade compare --recipe")
        check_keys(values, [field.name for field in fields(cls)])
        method = str(values.get("objective", cls.objective)).partition(":")[0]
        return cls(**({"backbone": "ram"} if method == "recurrent" else {}) | dict(values))

    def write(self, path: Path) -> None:
        write_text(path, self.to_yaml())

    def to_yaml(self) -> str:
        return to_yaml(asdict(self))


def to_yaml(values: Mapping[str, Any]) -> str:
    """Return the keys and values of a recipe as the text of its file."""
    text: str = yaml.safe_dump({"schema": SCHEMA, **values}, sort_keys=False)
    return text


def _are_names(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the keys and values of a recipe's file. Raises `BadRecipe` if it is none, `BadRun` if it is of a
    newer version of saccade.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BadRecipe(f"recipe {str(path)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRecipe(f"recipe {str(path)!r} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise BadRecipe(f"recipe {str(path)!r} holds no keys, but {values!r}")
    check_schema(path, values.pop("schema", SCHEMA), SCHEMA)
    return values


def read_settings(texts: list[str]) -> dict[str, Any]:
    """Read settings KEY=VALUE, each value as YAML writes it. Raises `BadRecipe` for another form.

    >>> read_settings(["optimizer=sgd", "learning_rate=0.1", "clip=null"])
    {'optimizer': 'sgd', 'learning_rate': 0.1, 'clip': None}
    """
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise BadRecipe(f"{text!r} is not of the form KEY=VALUE")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise BadRecipe(f"{text!r}: {value!r} is not a value of YAML") from error
    return settings


def check_keys(values: Mapping[str, Any], known: list[str]) -> None:
    """Raise `UnknownName` for a key that is not known."""
    for key in values:
        if key not in known:
            raise UnknownName("recipe key", str(key), known)


def check_integer(name: str, value: object, *, at_least: int) -> None:
    """Raise `BadRecipe` unless the value is an integer of at least so much."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise BadRecipe(f"{name}={value!r} must be an integer of at least {at_least}")


def check_number(name: str, value: object, *, below: float = float("inf")) -> None:
    """Raise `BadRecipe` unless the value is a number from 0 to below a bound."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < below:
        bound = "" if below == float("inf") else f" and below {below:g}"
        raise BadRecipe(f"{name}={value!r} must be a number of at least 0{bound}")
