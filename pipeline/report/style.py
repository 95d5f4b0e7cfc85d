"""Colours, line styles and axes that all drawings have in common."""

import io
from typing import Any

import matplotlib as mpl
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.certificates.rules import drawing_order
from pipeline.runs.schema import AlertName

# Okabe and Ito's palette: told apart by colour-blind readers. Every one has a line style as well,
# which serves print.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))

UNATTACKED: dict[str, Any] = {"smoothed": "-.", "plain": ":"}
"""Line styles of the accuracies without a patch, which have no colour of their own."""

ALERTS: dict[AlertName, Any] = {
    "clean": ":",
    "certified_detection": "-",
    "certified_recovery": "--",
}
"""Line styles of what an alert leaves right, detects and recovers."""

PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.4g} %")


def number_of(rule_name: str) -> int:
    """Number of the colour, the line and the marker that draw a rule in every figure."""
    return drawing_order().index(rule_name)


def integers(*axes: Axis, bins: int = 10) -> None:
    """Put ticks at whole numbers only."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(integer=True, nbins=bins))


def png(figure: Figure, dpi: int = 150) -> bytes:
    """Write a figure as PNG."""
    # Never a window: jobs have no display.
    mpl.use("agg")
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=dpi)
    return sink.getvalue()
