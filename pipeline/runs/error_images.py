"""Images without votes, because of an error, and the check of their number."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from models.errors import JobError


class ErrorRateError(JobError):
    """More images have an error than the request allows; everything is written."""


@dataclass(frozen=True, kw_only=True)
class ErrorImages:
    """The images of a run that have an error in place of votes.

    Attributes:
        count: Number of them.
        first: The first few in the listing's order, id to error.
    """

    count: int
    first: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def check(self, images: int, most: float) -> None:
        """Check their share of a run's ``images`` against ``--max-error-rate``.

        Raises:
            ErrorRateError: It is above ``most``.
        """
        share = self.count / images
        # Not ``count <= most * images``: 0.29 * 100 is below 29, while 29 / 100 is the same double
        # as 0.29, both being the nearest to it.
        if share <= most:
            return
        digits = next(n for n in range(1, 20) if f"{share:.{n}%}" != f"{most:.{n}%}")
        raise ErrorRateError(
            f"{self.count} of {images} images ({share:.{digits}%}) have an error, more than "
            f"--max-error-rate {most:.{digits}%}: {self}. Everything is written, and they count as "
            "wrong; mend the data, or allow the rate"
        )

    def __str__(self) -> str:
        shown = "; ".join(f"{image}: {error}" for image, error in self.first.items())
        return shown + ("; ..." if self.count > len(self.first) else "")
