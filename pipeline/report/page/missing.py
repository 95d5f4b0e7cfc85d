"""A part of the page that a run cannot answer, with the reason in its place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.config import ConfigError
from pipeline.sources.base import SourceError

T = TypeVar("T")


@dataclass(frozen=True)
class Missing:
    """Why a part is not there.

    Attributes:
        reason: In words, with the remedy, as the command of the same question would say it.
    """

    reason: str


def unless_refused(answer: Callable[[], T]) -> T | Missing:
    """The answer, or the words in which it was refused.

    Damaged or incomplete results (StoreError, ManifestError) are no refusals: they end the job.
    """
    try:
        return answer()
    except (ConfigError, SourceError) as error:
        return Missing(str(error))
