"""Rendering of the pages: one template environment, one content security policy, offline files."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from saccade.viz import overlay

#: In the first lines of every page.
MARKER = b'<meta name="generator" content="saccade">'
_STATIC = files("saccade.viz") / "static"


def render_page(
    page: str,
    *,
    data: dict[str, Any],
    filters: Iterable[Callable[..., object]] = (),
    **context: Any,
) -> str:
    """Return a page as one self-contained HTML document that requests nothing.

    The content security policy admits one script: heatmap.js followed by the script of the page.

    Args:
        page: Name of the page: of its template, script and style sheet.
        data: Data for the scripts, as JSON. `colors`, the palette of each color map, is added.
        filters: Filters of the template; each has the name of its function.
        **context: Variables of the template.
    """
    script = _read("heatmap.js") + _read(f"{page}.js")
    env = Environment(
        loader=PackageLoader("saccade.viz"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    env.filters |= {function.__name__: function for function in (breakable, prose, *filters)}
    colors = {cmap: overlay.palette(cmap).tobytes().hex() for cmap in overlay.CMAPS}
    return env.get_template(f"{page}.html.j2").render(
        data=data | {"colors": colors},
        cmaps=overlay.CMAPS,
        alpha=overlay.ALPHA,
        style=Markup(_read("base.css") + _read(f"{page}.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **context,
    )


def breakable(name: str) -> Markup:
    """Escape a name and allow line breaks after commas, colons and dots.

    Example:
        >>> breakable("a.b:c<d")
        Markup('a.<wbr>b:<wbr>c&lt;d')
    """
    return Markup(re.sub(r"([,:.])", r"\1<wbr>", str(escape(name))))


def prose(sentence: str) -> Markup:
    """Escape a sentence and set names between backticks as code.

    Example:
        >>> prose("`a` & b")
        Markup('<code>a</code> &amp; b')
    """
    parts = (
        Markup("<code>{}</code>").format(breakable(part)) if index % 2 else escape(part)
        for index, part in enumerate(sentence.split("`"))
    )
    return Markup("").join(parts)


def _read(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")
