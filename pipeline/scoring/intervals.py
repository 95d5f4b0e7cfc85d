"""Proportions with their uncertainty."""

from dataclasses import dataclass

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
        # It takes a second to import, which the tasks that only count need not wait for.
        from scipy.stats import binomtest  # noqa: PLC0415

        ends = binomtest(self.hits, self.of).proportion_ci(confidence, method="wilson")
        return float(ends.low), float(ends.high)

    def to_dict(self) -> Share:
        """Plain JSON values: hits, of, value, low, high."""
        low, high = self.interval() or (None, None)
        return {"hits": self.hits, "of": self.of, "value": self.value, "low": low, "high": high}
