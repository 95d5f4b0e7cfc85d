"""Proportions with their uncertainty."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from pipeline.runs.schema import Share


@dataclass(frozen=True)
class Proportion:
    """``hits`` of ``of`` images, and what it says of the population they were drawn from.

    Attributes:
        hits: Images that have the property.
        of: Images counted.
    """

    hits: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.of:
            raise ValueError(f"{self.hits} of {self.of}: hits must lie between 0 and the total")

    @property
    def value(self) -> float | None:
        """The share, in [0, 1]; None where nothing was counted."""
        return self.hits / self.of if self.of else None

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Wilson score interval (Wilson 1927, eq. 4); None where nothing was counted.

        Unlike the normal approximation it stays inside [0, 1] and keeps its coverage near both
        ends and for small samples.
        """
        if not self.of:
            return None
        # Not scipy.stats.binomtest: it takes 2 s to import, and 0.6 ms a call where this takes 2
        # us: 5 s for the table of 1,000 classes.
        z = NormalDist().inv_cdf(0.5 + confidence / 2)
        n, share = self.of, self.hits / self.of
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        # At 0 and n hits the end is exact; rounding would put it a hair outside.
        low = 0.0 if self.hits == 0 else centre - half
        high = 1.0 if self.hits == n else centre + half
        return low, high

    def to_dict(self) -> Share:
        """Plain JSON values: hits, of, value, low, high."""
        low, high = self.interval() or (None, None)
        return {"hits": self.hits, "of": self.of, "value": self.value, "low": low, "high": high}
