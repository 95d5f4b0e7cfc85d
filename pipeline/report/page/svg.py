"""Matplotlib figures as SVG inside a page: its fonts, its colours by day and night, equal bytes."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from pipeline.report.style import SERIES

# What is drawn in one of these colours, or of the series, takes that of the page's style sheet.
INK, FAINT, PAPER = "#010203", "#040506", "#fdfefd"

_VARIABLES = {INK: "ink", FAINT: "faint", PAPER: "paper"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES, 1)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # Names of data may hold dollar signs.
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.borderaxespad": 0.2,
    "legend.handlelength": 2.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.5,
    "grid.color": FAINT,
    "lines.linewidth": 1.6,
    "hatch.linewidth": 0.6,
    **dict.fromkeys(
        (
            *("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"),
            "hatch.color",
        ),
        INK,
    ),
}
# Phones show a figure at about this many points, so that its text stays as large as it is here.
_WIDTH_INCHES = 4.6


@contextmanager
def drawing(height_inches: float) -> Iterator[Figure]:
    """A figure in the page's style, to be drawn on inside the block."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
        figure.patch.set_alpha(0)
        yield figure


def inline_svg(figure: Figure, name: str, alt: str) -> Markup:
    """A figure as an element of a page.

    Args:
        figure: A figure of ``drawing``, still inside its block.
        name: Unlike those of the page's other figures: ids are derived from it.
        alt: Description of the figure, for those who do not see it.
    """
    sink = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(sink, format="svg", transparent=True, metadata=nothing)
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    size = re.search(r'viewBox="([^"]*)"', text)
    assert size is not None, "matplotlib writes a view box"
    body = text[text.index(">") + 1 :]
    # Groups are numbered alike in every figure, and nothing refers to them.
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = body.replace("xlink:href", "href")
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r"\n\s*", "\n", body)
    head = Markup('<svg role="img" viewBox="{}" aria-label="{}">').format(size[1], alt)
    return head + Markup(body)  # noqa: S704  (matplotlib escapes what it is given)
