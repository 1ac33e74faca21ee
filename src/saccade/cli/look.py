"""saccade look: where a network looks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from saccade.data import Photograph

Images = Annotated[
    list[Path] | None,
    typer.Argument(metavar="IMAGE...", help="Images or folders of them; by default test images of a run."),
]
Layers = Annotated[
    list[str] | None, typer.Option(help="Path of a layer; may be repeated. By default all with attention.")
]
GradCAM = Annotated[
    bool, typer.Option("--grad-cam", help="Grad-CAM instead of attention; --layer then names any module.")
]


@dataclass(frozen=True)
class _Subject:
    """What is looked at: a network, what it is given, and how that is shown."""

    model: nn.Module
    inputs: Tensor
    display_images: list[Photograph]
    names: list[str]
    title: str


def look(
    network: Annotated[
        str,
        typer.Argument(
            help="The folder of a run, a checkpoint in it, or a network of torchvision or timm, as resnet18."
        ),
    ],
    images: Images = None,
    layer: Layers = None,
    grad_cam: GradCAM = False,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="A library's network with its weights, not random ones.")
    ] = False,
    count: Annotated[int, typer.Option("--images", min=1, help="Number of test images.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder of look.html and the PNGs.")] = Path("look"),
    cmap: Annotated[str, typer.Option(help="Of the PNGs: magma, viridis or cividis.")] = "magma",
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Of the maps in the PNGs.")] = 0.6,
) -> None:
    """Draw where a network looks: one interactive page, and a PNG of each image and layer.

    Of a network without attention it is Grad-CAM, for the class that it answers.
    """
    from dataclasses import replace

    from saccade.errors import BadOption
    from saccade.viz import look as see
    from saccade.viz.overlay import palette

    palette(cmap)  # a misspelt name is said before anything runs
    if not (Path(network).exists() or "/" in network):
        its = _of_library(network, images, pretrained)
    elif pretrained:
        raise BadOption(f"--pretrained is for networks of torchvision and timm, not for {network!r}")
    else:
        its = _of_run(Path(network), images, count)
    seen = see(
        its.model,
        its.inputs,
        layers=layer or None,
        method="grad_cam" if grad_cam else None,
        display_images=its.display_images,
        names=its.names,
    )
    seen = replace(seen, title=its.title)
    drawn = seen.save_png(out, cmap=cmap, alpha=alpha)
    page = seen.save_html(out / "look.html")
    typer.echo(
        f"{page}, and {len(drawn)} PNGs beside it: {', '.join(path or 'the network' for path in seen.maps)}"
    )


def _of_run(run: Path, images: list[Path] | None, count: int) -> _Subject:
    """Return a trained network with images, by default test images, and say what it takes them for."""
    import torch

    from saccade.data import contact_sheet
    from saccade.errors import BadOption
    from saccade.training import examples, restore

    classifier = restore(run)
    inputs, labels = examples(run, classifier.plan)
    classes = classifier.hparams["classes"]
    is_clip = inputs.ndim == 5
    if images and is_clip:
        raise BadOption(f"{str(run)!r} takes clips, and its own test clips alone can be shown, no IMAGE")
    if images:
        inputs, pictures, names = _photographs(images, inputs.shape[-1])
    else:
        inputs, labels = inputs[:count], labels[:count]
        shown = contact_sheet(inputs) if is_clip else inputs
        pictures = [*shown.permute(0, 2, 3, 1).contiguous().numpy()]
    with torch.inference_mode():
        chances, answers = classifier(inputs).softmax(1).max(1)
    if images:
        for name, answer, chance in zip(names, answers.tolist(), chances.tolist(), strict=True):
            typer.echo(f"{name}: {classes[answer]} ({chance:.2f})")
    else:
        pairs = zip(labels.tolist(), answers.tolist(), strict=True)
        names = [
            f"{number}: {classes[label]}" + ("" if answer == label else f", taken for {classes[answer]}")
            for number, (label, answer) in enumerate(pairs, start=1)
        ]
    torch.manual_seed(classifier.recipe.seed)  # some networks look at random places
    attention, task = classifier.recipe.attention, classifier.recipe.task.partition(":")[0]
    what = type(classifier.model).__name__ if attention == "none" else attention
    title = f"{what} on {task}"
    return _Subject(classifier.model, classifier.normalize(inputs).detach(), pictures, names, title)


def _of_library(name: str, images: list[Path] | None, pretrained: bool) -> _Subject:
    """Return a network of torchvision or timm with images as its weights want them."""
    import torch

    from saccade.errors import BadOption, UnknownName
    from saccade.models.backbone import input_of, load_backbone

    torch.manual_seed(0)  # the same random weights each time
    try:
        model = load_backbone(name, pretrained=pretrained).eval()
    except UnknownName as error:
        raise UnknownName(f"run or {error.kind}", error.value, error.choices or ()) from error
    if not images:
        raise BadOption(f"{name!r} is a library's network, which has no test images; name an IMAGE")
    size, mean, std = input_of(model)
    pixels, pictures, names = _photographs(images, size)
    inputs = (pixels / 255 - mean) / std
    try:
        with torch.inference_mode():
            model(inputs[:1])
    except Exception as error:  # networks of clips, of pairs of images ... each raise their own
        reason = str(error).partition("\n")[0]
        raise BadOption(f"{name!r} takes no images of {tuple(inputs.shape[1:])}: {reason}") from error
    return _Subject(model, inputs, pictures, names, name if pretrained else f"{name}, with random weights,")


def _photographs(paths: list[Path], size: int) -> tuple[Tensor, list[Photograph], list[str]]:
    """Return images as a folder's task would hold them, what of each can be seen, and their names."""
    import torch

    from saccade.data import center_crop, image_files, read_image, resize_and_crop

    files = [file for path in paths for file in (image_files(path) if path.is_dir() else [path])]
    photographs = [read_image(file) for file in files]
    inputs = torch.stack(
        [torch.from_numpy(resize_and_crop(photograph, size).copy()) for photograph in photographs]
    )
    return (
        inputs.permute(0, 3, 1, 2).contiguous(),
        [center_crop(photograph) for photograph in photographs],
        [file.stem for file in files],
    )
