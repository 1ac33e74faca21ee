"""The page: one self-contained file in which layers, heads, channels and pixels can be chosen."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from saccade.viz import overlay
from saccade.viz.payload import pack

if TYPE_CHECKING:
    from saccade.viz.figure import Look

PAGE, NOTEBOOK = 24 << 20, 6 << 20  # bytes of rows and features, before base64

_TEMPLATES = files("saccade.viz") / "static"


def render(look: Look, budget: int = PAGE) -> str:
    """Return the page as one string of HTML."""
    environment = Environment(
        loader=PackageLoader("saccade.viz"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    data = pack(look, budget)
    images = data.pop("images")
    data["images"] = [{key: image[key] for key in ("name", "width", "height")} for image in images]
    data["colors"] = {name: overlay.palette(name).tobytes().hex() for name in overlay.COLORS}
    data["opacity"] = overlay.OPACITY
    data["title"] = look.title
    data["method"] = look.method
    script = _read("look.js")
    return environment.get_template("look.html.j2").render(
        look=look,
        images=images,
        labels=_short([layer["path"] or look.title for layer in data["layers"]]),
        total=len(look.shots.names),
        data=data,
        style=Markup(_read("look.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _short(paths: list[str]) -> list[str]:
    """Drop what all paths begin and end with, level by level, and how attached attention is held.

    >>> _short(["layer1.0.attention.mechanism.channel", "layer1.0.attention.mechanism.spatial"])
    ['channel', 'spatial']
    >>> _short(["layer1.0.attention.mechanism.channel", "layer2.0.attention.mechanism.spatial"])
    ['layer1.0.channel', 'layer2.0.spatial']
    >>> _short(["blocks.0.attn", "blocks.1.attn"])
    ['0', '1']
    >>> _short(["attention.1.channel", "attention.2"])
    ['1.channel', '2']
    """
    levels = [path.replace(".attention.mechanism", "").split(".") for path in paths]
    for end in (0, -1):
        while min(map(len, levels)) > 1 and len({each[end] for each in levels}) == 1:
            for each in levels:
                del each[end]
    return [".".join(each) for each in levels]


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
