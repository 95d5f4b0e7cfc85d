"""The names a user may have meant, for messages about one that does not exist."""

import difflib
from collections.abc import Iterable


def did_you_mean(asked: str, known: Iterable[str], at_most: int = 1) -> str:
    """``did you mean NAME, NAME?``, nearest first; empty where no name of ``known`` is near."""
    near = difflib.get_close_matches(asked, known, n=at_most, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else ""
