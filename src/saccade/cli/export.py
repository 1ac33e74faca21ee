"""saccade export: a trained model as an ONNX file or a program of torch.export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from saccade.cli.options import Json
from saccade.cli.terminal import announce, echo, path_argument, path_option

if TYPE_CHECKING:
    from torch import Tensor, nn

_ONE_LINE = 4  # names of outputs that are printed
_LARGEST = 4096  # height and width of an example


def export(
    model: Annotated[
        Path, path_argument(metavar="RUN", help="Folder of a run or of saccade.save, or a .ckpt file.")
    ],
    to: Annotated[
        Literal["onnx", "program"], typer.Option("--to", help="ONNX, or a program of torch.export.")
    ] = "onnx",
    dynamic: Annotated[
        str, typer.Option(help='Axes of any size, of batch, time, height and width; "" for none.')
    ] = "batch,height,width",
    maps: Annotated[bool, typer.Option("--maps", help="Also return the attention maps, as outputs.")] = False,
    image_size: Annotated[
        int | None,
        typer.Option(help="Height and width of the example; default: those of the run or of the backbone."),
    ] = None,
    out: Annotated[
        Path | None, path_option(help="The file; default: model.onnx or model.pt2 in the folder RUN.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a model, and verify the file at sizes that the export has not seen.

    The input of a run are pixels from 0 to 255. The file is written only if it gives the model's results.
    """
    announce()
    from saccade.errors import bad_option
    from saccade.exporting import SUFFIXES
    from saccade.exporting import export as export_model
    from saccade.sharing import load

    if image_size is not None and not 1 <= image_size <= _LARGEST:
        raise bad_option("export", f"must be from 1 to {_LARGEST}", image_size=image_size)
    axes = tuple(name.strip() for name in dynamic.split(",") if name.strip())
    network = load(model)
    folder = model if model.is_dir() else model.parent
    file = out or folder / f"model{SUFFIXES[to]}"
    result = export_model(network, file, _example(network, image_size), to=to, dynamic=axes, maps=maps)
    if as_json:
        errors = [{"shape": list(shape), "error": error} for shape, error in result.errors.items()]
        facts = {"path": str(result.path), "format": to, "inputs": result.inputs, "outputs": result.outputs}
        typer.echo(json.dumps({**facts, "dynamic": result.dynamic, "errors": errors}, indent=1))
        return
    more = len(result.outputs) - _ONE_LINE
    outputs = ", ".join(result.outputs[:_ONE_LINE]) + (f" and {more} more" if more > 0 else "")
    echo(f"{result.path.resolve()}: {', '.join(result.inputs)} -> {outputs}")
    echo(f"any {', '.join(result.dynamic)}" if result.dynamic else "all axes are fixed")
    echo(f"largest difference from the model, relative to its largest output: {_errors(result.errors)}")


def _errors(errors: Mapping[tuple[int, ...], float]) -> str:
    return ", ".join(f"{error:.1e} at {'x'.join(map(str, shape))}" for shape, error in errors.items())


def _example(model: nn.Module, size: int | None) -> Tensor:
    """Return an input of the shape that a run was trained with, or that a backbone is made for."""
    import torch

    from saccade.models import input_of
    from saccade.training import Classifier

    generator = torch.Generator().manual_seed(0)
    if isinstance(model, Classifier):
        channels, *extents = model.hparams["shape"]
        extents = [*extents[:-2], size, size] if size else extents
        return 255 * torch.rand(2, channels, *extents, generator=generator)
    convolutions = (module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    first = next(convolutions, None)
    extent = size or input_of(model)[0]
    return torch.randn(2, first.in_channels if first else 3, extent, extent, generator=generator)
