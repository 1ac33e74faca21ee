"""Models of segmentation_models_pytorch by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from saccade.errors import BadOption, UnknownName, bad_option


def load_segmentation_model(
    name: str, *, classes: int | None = None, pretrained: bool | str = False, **options: Any
) -> nn.Module:
    """Build a model of segmentation_models_pytorch with random weights.

    Args:
        name: `ARCHITECTURE[:ENCODER]`, such as "Unet:resnet18"; without an encoder, that of the library.
        classes: Number of classes; by default, that of the library.
        pretrained: False: the library downloads its weights.
        **options: Further options of the architecture, such as `decoder_attention_type="scse"`.

    Raises:
        UnknownName: If there is no such architecture or encoder.
        BadOption: If the library is not installed, weights are requested, or it refuses the options.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        needed = "needs the package segmentation-models-pytorch (pip install 'saccade[segmentation]')"
        raise bad_option("load_backbone", needed, name=f"smp:{name}") from error
    if pretrained is not False:
        raise bad_option(
            "load_backbone", f"must be false for smp:{name}, which has no files", pretrained=pretrained
        )
    architecture, _, encoder = name.partition(":")
    architectures = smp.MODEL_ARCHITECTURES_MAPPING
    if architecture.lower() not in architectures:
        choices = [model.__name__ for model in architectures.values()]
        raise UnknownName("network of smp", architecture, choices, owner="load_backbone")
    if encoder and encoder not in smp.encoders.encoders and not encoder.startswith("tu-"):
        raise UnknownName("encoder of smp", encoder, smp.encoders.encoders, owner="load_backbone")
    given = ({"encoder_name": encoder} if encoder else {}) | ({} if classes is None else {"classes": classes})
    try:
        model: nn.Module = architectures[architecture.lower()](encoder_weights=None, **given, **options)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        problem = f"cannot be built with {options}: {error}"
        raise BadOption.of(f"smp:{name}", problem, options=options) from error
    return model
