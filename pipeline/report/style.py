"""What every drawing looks like alike: colours, line styles, per cent."""

from typing import Any

from matplotlib.ticker import FuncFormatter

# Okabe and Ito's palette: told apart by colour-blind readers. Every one has a line style as well,
# which serves print.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))

RULES = {"exact": 0, "uniform": 1, "randomized": 2}
"""Which of the series draws a rule; another rule is the next."""

UNATTACKED: dict[str, Any] = {"smoothed": "-.", "plain": ":"}
"""Line styles of the accuracies without a patch, which have no colour of their own."""

ALERTS: dict[str, Any] = {"clean": ":", "certified_detection": "-", "certified_recovery": "--"}
"""Line styles of what an alert leaves right, detects and recovers."""

PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.4g} %")
