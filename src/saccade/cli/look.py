"""saccade look: where a trained network looks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from saccade.data.images import Photograph

Images = Annotated[
    list[Path] | None,
    typer.Argument(metavar="IMAGE...", help="Images or folders of them; by default test images of the run."),
]
Layers = Annotated[
    list[str] | None, typer.Option(help="Path of a layer; may be repeated. By default all with attention.")
]
GradCAM = Annotated[
    bool, typer.Option("--grad-cam", help="Grad-CAM instead of attention; --layer then names any module.")
]


def look(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or a checkpoint in it.")],
    images: Images = None,
    layer: Layers = None,
    grad_cam: GradCAM = False,
    count: Annotated[int, typer.Option("--images", min=1, help="Number of test images.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder of look.html and the PNGs.")] = Path("look"),
    colours: Annotated[str, typer.Option(help="Of the PNGs: magma, viridis or cividis.")] = "magma",
    opacity: Annotated[float, typer.Option(min=0, max=1, help="Of the maps in the PNGs.")] = 0.6,
) -> None:
    """Draw where a trained network looks: one interactive page, and a PNG of each image and layer."""
    from dataclasses import replace

    import torch

    from saccade.data.clips import contact_sheet
    from saccade.errors import BadOption
    from saccade.see import look as see
    from saccade.see.paint import palette
    from saccade.train import examples, restore

    palette(colours)  # a misspelt name is said before anything runs
    classifier = restore(run)
    inputs, labels = examples(run, classifier.recipe)
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
    seen = see(
        classifier.model,
        classifier.normalised(inputs).detach(),
        layers=layer or None,
        method="grad_cam" if grad_cam else None,
        pictures=pictures,
        names=names,
    )
    attention, task = classifier.recipe.attention, classifier.recipe.task.partition(":")[0]
    seen = replace(seen, title=f"{seen.title if attention == 'none' else attention} on {task}")
    drawn = seen.save_png(out, colours=colours, opacity=opacity)
    page = seen.save_html(out / "look.html")
    typer.echo(
        f"{page}, and {len(drawn)} PNGs beside it: {', '.join(path or 'the network' for path in seen.maps)}"
    )


def _photographs(paths: list[Path], size: int) -> tuple[Tensor, list[Photograph], list[str]]:
    """Return images as a folder's task would hold them, what of each can be seen, and their names."""
    import torch

    from saccade.data.images import centre, fit, read_image
    from saccade.data.photographs import image_files

    files = [file for path in paths for file in (image_files(path) if path.is_dir() else [path])]
    photographs = [read_image(file) for file in files]
    inputs = torch.stack([torch.from_numpy(fit(photograph, size).copy()) for photograph in photographs])
    return (
        inputs.permute(0, 3, 1, 2).contiguous(),
        [centre(photograph) for photograph in photographs],
        [file.stem for file in files],
    )
