"""Two classifiers on the same images: how they differ, and how sure that is."""

import math
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

from pipeline.intervals import Proportion


@dataclass(frozen=True)
class Paired:
    """What two classifiers got right of the same images.

    Attributes:
        both: Images that both have right.
        only_first: Images that only the first one has right.
        only_second: Images that only the second one has right.
        neither: Images that neither has right.
    """

    both: int
    only_first: int
    only_second: int
    neither: int

    def __post_init__(self) -> None:
        if min(self.both, self.only_first, self.only_second, self.neither) < 0:
            raise ValueError(f"{self}: a number of images is never below 0")

    @property
    def of(self) -> int:
        """Images compared."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def first(self) -> Proportion:
        """Share that the first has right."""
        return Proportion(self.both + self.only_first, self.of)

    @property
    def second(self) -> Proportion:
        """Share that the second has right."""
        return Proportion(self.both + self.only_second, self.of)

    @property
    def difference(self) -> float | None:
        """Share of the second minus that of the first, in [-1, 1]; None where there is no image."""
        return (self.only_second - self.only_first) / self.of if self.of else None

    def p_value(self) -> float:
        """Exact McNemar test that neither is better; two-sided.

        If neither is, each image on which they differ is as likely to favour one as the other, so
        the smaller of the two numbers is binomial with share 1/2. The p-value is the probability
        of a split at least as uneven, which is 1 where they never differ.

        Source: McNemar, "Note on the sampling error of the difference between correlated
            proportions", Psychometrika 1947, with the binomial tail in place of its approximation.
        """
        differ = self.only_first + self.only_second
        return float(binomtest(self.only_first, differ).pvalue) if differ else 1.0

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Newcombe's score interval of ``difference``; None where there is no image.

        The two Wilson intervals, squared and added, with their correlation: method 10 of the paper.
        Unlike the normal approximation it never leaves [-1, 1], has a width where the two never
        differ, and keeps its coverage for few images. It is another approximation than the exact
        test, so at the edge one may see a difference where the other does not.

        Source: Newcombe, "Improved confidence intervals for the difference between binomial
            proportions based on paired data", Statistics in Medicine 1998, method 10; recommended
            by Fagerland, Lydersen & Laake, Statistics in Medicine 2014.
        """
        first, second = self.first.interval(confidence), self.second.interval(confidence)
        if first is None or second is None or self.difference is None:
            return None
        share_1, share_2 = self.first.hits / self.of, self.second.hits / self.of
        below = _added(second[0] - share_2, first[1] - share_1, self._correlation())
        above = _added(second[1] - share_2, first[0] - share_1, self._correlation())
        return max(-1.0, self.difference - below), min(1.0, self.difference + above)

    def _correlation(self) -> float:
        """Phi of the 2 x 2 table, moved towards 0 by half an image a pair where it is positive."""
        margins = (
            self.first.hits * (self.of - self.first.hits),
            self.second.hits * (self.of - self.second.hits),
        )
        if not all(margins):
            return 0.0
        cross = float(self.both * self.neither - self.only_first * self.only_second)
        if cross > 0:
            cross = max(0.0, cross - self.of / 2)
        return cross / (math.sqrt(margins[0]) * math.sqrt(margins[1]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        low, high = self.interval() or (None, None)
        return {
            "of": self.of,
            "both": self.both,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "neither": self.neither,
            "first": self.first.value,
            "second": self.second.value,
            "difference": self.difference,
            "low": low,
            "high": high,
            "p_value": self.p_value(),
        }


def _added(one: float, other: float, correlation: float) -> float:
    """Half-width of a difference from the half-widths of its terms, whatever their signs."""
    one, other = abs(one), abs(other)
    squared = one * one - 2 * correlation * one * other + other * other
    return math.sqrt(max(0.0, squared))
