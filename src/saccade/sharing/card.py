"""The card of a shared model: how to load it, where its attention is and looks, how it was trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from saccade.attachment import describe_attachments
from saccade.errors import SaccadeError
from saccade.results import Interval, Row, read_comparison, read_gallery, read_run_result
from saccade.viz import look

#: Name of the picture of the maps, which the card shows.
PICTURE = "maps.png"
_IMAGES, _SIDE, _GAP = 4, 224, 8


def card_images(run: Path | None, images: Tensor | None) -> Tensor | None:
    """Return up to four images for the card; None for clips or no images.

    Args:
        run: Folder of a run, whose gallery has images.
        images: Inputs of a model that is not a run, (B, 3, H, W).
    """
    if run is None:
        return None if images is None else images[:_IMAGES]
    pixels = read_gallery(run).images[:_IMAGES]
    return None if pixels.ndim == 5 else pixels


def draw_maps(model: nn.Module, run: Path | None, images: Tensor) -> Image.Image:
    """Return images above the maps of the last layer with attention.

    Args:
        model: The model; of a run, it takes pixels from 0 to 255.
        run: Folder of a run.
        images: Result of `card_images`.
    """
    if run is None:
        figure = look(model, images)
    else:
        classifier: Any = model
        shown = [*images.permute(0, 2, 3, 1).contiguous().numpy()]
        figure = look(classifier.model, classifier.normalize(images), display_images=shown)
    *_, layer = figure.maps
    pictures = figure.inputs.display_images
    rows = ([*pictures], [figure.overlay(layer, index) for index in range(len(pictures))])
    step = _SIDE + _GAP
    sheet = Image.new("RGB", (step * len(pictures) - _GAP, 2 * step - _GAP), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(Image.fromarray(np.asarray(picture)).resize((_SIDE, _SIDE)), (step * x, step * y))
    return sheet


def write_card(model: nn.Module, run: Path | None, *, has_picture: bool) -> str:
    """Return a model card, Markdown with the metadata of the hub."""
    attachments = describe_attachments(model)
    used = sorted({each["mechanism"] for each in attachments})
    result = None if run is None else read_run_result(run)
    if result is not None and result["attention"] != "none":
        used = sorted({*used, result["attention"].partition(":")[0].partition("@")[0]})
    tags = "\n".join(f"- {tag}" for tag in ("attention", *used))
    network = type(model if run is None else model.model).__name__
    title = f"{network} with {', '.join(used)}" if used else network
    takes = "a batch of images, pixels from 0 to 255" if run else "what the original model takes"
    parts = [
        f"---\nlibrary_name: saccade\ntags:\n{tags}\n---\n\n# {title}\n",
        "```python\nfrom saccade.sharing.hub import HubModel\n\n"
        'model = HubModel.from_pretrained("NAME/REPOSITORY")  # or a folder with these files\n```\n',
        f"The input is {takes}. `sc.record(model)` records the attention, and `sc.look` draws it.\n",
    ]
    if has_picture:
        parts.append(f"![Images, and the attention maps of the model over them]({PICTURE})\n")
    if attachments:
        rows = [
            (f"`{each['path']}`", f"`{each['mechanism']}`", f"`{json.dumps(each['options'])}`")
            for each in attachments
        ]
        parts.append("## Attention\n\n" + _table(("path", "mechanism", "options"), rows))
    if run is not None and result is not None:
        row = _row_of(run, result["attention"])
        table = _leaderboard(row) if row else _result(result["error"], result["seed"])
        parts.append(f"## Result\n\n{table}")
        parts.append(f"## Recipe\n\n```yaml\n{(run / 'recipe.yaml').read_text().strip()}\n```\n")
    return "\n".join(parts)


def _row_of(run: Path, attention: str) -> Row | None:
    """Return the row of the comparison to which a run belongs, if there is one."""
    try:
        rows = read_comparison(run.resolve().parents[1])["leaderboard"]
    except SaccadeError:
        return None
    return next((row for row in rows if row["attention"] == attention), None)


def _leaderboard(row: Row) -> str:
    difference = "" if row["difference"] is None else _interval(row["difference"], sign="+")
    cells = (
        f"`{row['attention']}`",
        _interval(row["error"]),
        difference,
        str(row["seeds"]),
        f"{row['parameters']:,}",
        f"{row['flops']:,}",
    )
    head = ("attention", "test error", "vs none, points", "seeds", "parameters", "FLOPs")
    return _table(head, [cells]) + "\nMeans over seeds with 95% intervals; this model is one of the runs.\n"


def _result(error: float, seed: int) -> str:
    return _table(("test error", "seed"), [(f"{100 * error:.2f}%", str(seed))])


def _interval(value: Interval, sign: str = "") -> str:
    percent = "" if sign else "%"
    mean = f"{100 * value['mean']:{sign}.2f}{percent}"
    low, high = value["low"], value["high"]
    return mean if low is None or high is None else f"{mean} [{100 * low:.2f}, {100 * high:.2f}]"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
