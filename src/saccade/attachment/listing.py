"""`sites`: list the places of a model that can take attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from saccade.annotations import check_arguments
from saccade.attachment.example import call_arguments
from saccade.attachment.hooks import check_model
from saccade.attachment.influence import without_influence
from saccade.attachment.site import Site, Sites
from saccade.attachment.site_builder import SiteBuilder, construction
from saccade.attachment.site_detection import SiteFinder
from saccade.attachment.trace import trace_forward
from saccade.errors import BadOption, bad_option


def sites(model: nn.Module, example_inputs: object, name: str | None = None, /, **options: Any) -> Sites:
    """List the places of a model that can take attention, and the cost of a mechanism in each.

    `sites` runs the example inputs once in evaluation mode and reads the places from the operations and
    modules of this pass. The model does not change. `Site` describes the kinds of places: "residual" is the
    longer side of an addition; "stem" and "stage" come from the blocks of the model, which are modules of the
    same class with at least two weighted layers.

    Args:
        model: The model.
        example_inputs: A batch, a list of images `(C, H, W)` if the model takes one, or all inputs of the
            model: a tuple of them, or any mapping from names.
        name: A mechanism as `"NAME[:option=value,...]"`. With it, each site has `parameters`, `flops` and
            `share`, or the reason in `refused` if the mechanism does not fit.
        **options: Further options of the mechanism.

    Returns:
        The sites in the order of the forward pass. `str` formats them as a table.

    Raises:
        BadOption: If the model is compiled or scripted, the example holds no batch of images, or the forward
            pass fails.
        UnknownName: If the mechanism or an option does not exist.

    Example:
        >>> import torch, saccade as sc
        >>> from saccade.models import SmallCNN
        >>> model, x = SmallCNN(2), torch.zeros(1, 3, 32, 32)
        >>> print(sc.sites(model, x, "se").of("stage"))
        path        kind   features      parameters  flops  share
        stages.0.2  stage  16 x 16 x 16  49          8,273  0.58%
        stages.1.2  stage  32 x 8 x 8    162         4,386  0.31%
        stages.2.2  stage  64 x 4 x 4    580         3,140  0.22%
    """
    check_arguments(sites, {"name": name})
    from saccade.profiling import flops  # its counter takes as long to import as the rest of the package

    check_model(model, "sites", "pass the original model")
    if name is None and options:
        option = min(options)
        raise bad_option("sites", "is an option of a mechanism; name one", **{option: options[option]})
    builder = None if name is None else SiteBuilder(name, options)
    trace = trace_forward(model, example_inputs)
    places = SiteFinder(trace).candidates()
    if builder is None:
        return Sites(place.site for place in places)
    flops_per_image = flops(_SingleArgument(model), example_inputs) / trace.batch
    unread = without_influence(trace, places, builder)
    with construction():
        return Sites(_with_cost(place.site, builder, flops_per_image, place in unread) for place in places)


class _SingleArgument(nn.Sequential):
    """A model as a function of its example inputs."""

    def forward(self, example_inputs: object) -> Any:
        args, kwargs = call_arguments(example_inputs)
        return self[0](*args, **kwargs)


def _with_cost(site: Site, builder: SiteBuilder, flops_per_image: float, is_unread: bool) -> Site:
    """Return a site with the cost of a mechanism, or with the reason why it does not fit."""
    try:
        if is_unread:
            raise builder.no_influence(site)
        _, parameters, flops = builder.measure(site)
    except BadOption as error:
        return replace(site, refused=str(error).removeprefix(f"{site.path}: "))
    return replace(site, parameters=parameters, flops=flops, share=flops / flops_per_image)
