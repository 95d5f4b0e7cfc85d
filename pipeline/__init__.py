"""The flow of a certification: sources, votes, store, certificates, summary, tracking.

``from pipeline import certify, evaluate`` is the way in for a notebook (``pipeline.notebook``).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.notebook import certify, evaluate

__all__ = ["certify", "evaluate"]


def __getattr__(name: str) -> Any:
    """The two functions, imported once they are asked for: their parts take a second."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pipeline.notebook  # noqa: PLC0415

    return getattr(pipeline.notebook, name)
