"""Matplotlib figures as inline SVG: scalable, labelled, in the page's own font and colours, light and dark."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from int_ray.report.page import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colour to draw with -> the page's variable that replaces it (templates/style.css).
INK, MUTED, LINE, CARD = "#26292e", "#646973", "#e2e0d9", "#fefefe"
BLUE, GREEN, RED, AMBER = "#2f6fb0", "#2e7d5b", "#b5483a", "#a66a10"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    CARD: "--card",
    BLUE: "--blue",
    GREEN: "--green",
    RED: "--red",
    AMBER: "--amber",
}
STYLE: dict[Any, Any] = {  # of matplotlib
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 2,
}
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def inline_svg(name: str, label: str, draw: Callable[[Figure], None], *, width: int = 300, height: int = 190) -> Markup:
    """What `draw` puts on an empty figure, as one `<svg>` that fills the width it is given.

    `name` keeps the ids of figures on one page apart; `label` says what is to be seen, for those who cannot. Text (11)
    reads well where the figure is about `width` CSS pixels wide. Draw with the colours of this module alone.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    file = io.StringIO()
    with rc_context(STYLE), rc_context({"svg.hashsalt": name}):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        draw(figure)
        for text in figure.findobj(Text):
            text.set_text(visible(text.get_text()))
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_adapt(file.getvalue(), name, visible(label)))


def _adapt(svg: str, name: str, label: str) -> str:
    """Matplotlib's file as part of a page: no header, own ids, the page's colours, a text alternative."""
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(svg)
    for parent in list(root.iter()):
        for child in [*parent.findall(f"{{{SVG}}}metadata"), *parent.findall(f"{{{SVG}}}style")]:
            parent.remove(child)  # the style sheet would rule the whole page
    for element in root.iter():
        element.attrib.update({key: _own_ids(key, value, name) for key, value in element.attrib.items()})
    for key in ("width", "height", "version"):
        del root.attrib[key]
    root.attrib.update({"role": "img", "aria-label": label, "stroke-linejoin": "round"})
    title = ET.Element(f"{{{SVG}}}title")
    title.text = label
    root.insert(0, title)
    text = ET.tostring(root, encoding="unicode")
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text


def _own_ids(key: str, value: str, name: str) -> str:
    """An attribute's value with the ids in it, or the one that it is, marked with `name`."""
    if key == "id":
        return f"{name}-{value}"
    if key == f"{{{XLINK}}}href":
        return f"#{name}-{value.removeprefix('#')}"
    return value.replace("url(#", f"url(#{name}-")
