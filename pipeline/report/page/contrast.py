"""Runs beside each other: paired differences of each from the first."""

from collections.abc import Sequence

from pipeline.questions.comparison import Comparison, compare
from pipeline.report.page.chapter import Chapter
from pipeline.report.page.missing import Missing, unless_refused


def contrasts_of(
    chapters: Sequence[Chapter], *, intersect: bool
) -> list[tuple[Chapter, Comparison | Missing]]:
    """How every later run differs from the first.

    Args:
        chapters: The runs, at least one.
        intersect: Leave out images that only one of two runs has, instead of refusing.

    Raises:
        ManifestError, StoreError: Votes or certificates are absent, incomplete or contradictory.
    """
    first = chapters[0]

    def contrast(other: Chapter) -> Comparison:
        return compare(first.run, other.run, intersect=intersect)

    return [(other, unless_refused(lambda other=other: contrast(other))) for other in chapters[1:]]  # type: ignore[misc]
