"""The largest sets of views that a threat touches, as one matrix.

``attack_sets`` counts votes along the axes of a grid of offsets, which bands and blocks have and
masks have not. A decision that looks at what two locations leave alone needs the sets themselves,
which are few: a location matters only by the views that it touches.

Shapes: V views, S sets.
"""

from functools import lru_cache

import numpy as np

from models.views.family import BoolArray, Patch, ViewFamily
from models.views.masks import Masks
from models.views.threats import Threat

# Products S * S * V above which one image takes longer than about 0.1 s.
_MOST_WORK = 1 << 32
# The same of all sets, which are compared once, and bytes of one bool a location and view.
_MOST_COMPARED, _MOST_BYTES = 1 << 36, 1 << 29


@lru_cache(maxsize=256)
def largest_sets(views: ViewFamily, threat: Threat | tuple[Patch, ...]) -> BoolArray:
    """The distinct sets of views that one rectangle touches, of nested ones the largest.

    Args:
        views: The views.
        threat: What the attacker may do, or the rectangles, any one of which he may use.

    Returns:
        The touched views of each set; bool (S, V), read-only.

    Raises:
        ValueError: The threat does not fit the image.
    """
    kept = np.zeros((0, len(views)), bool)
    for patch in threat.patches(views) if isinstance(threat, Threat) else threat:
        kept = _largest(np.concatenate([kept, views.touched_sets(patch).touched_sv]))
    kept.flags.writeable = False
    return kept


def check_assumed(views: ViewFamily, threat: Threat, assumed: Threat) -> None:
    """Raise ValueError unless every patch of a threat lies within one that is assumed."""
    if not assumed.holds(threat, views):
        raise ValueError(
            f"patch {threat}: the decision assumes a patch of at most {assumed}; assume a larger "
            "one with --assume"
        )


def check_sets(views: ViewFamily, threat: Threat, *, pairs: bool) -> None:
    """Check that a decision over the largest sets can be built.

    Args:
        views: The views.
        threat: What the decision assumes.
        pairs: Whether it looks at what two sets leave alone together.

    Raises:
        ValueError: It cannot; the message says why, and what can be asked instead.
    """
    for patch in threat.patches(views):
        _check_size(views, patch)
    touched_sv = largest_sets(views, threat)
    if touched_sv.all(axis=1).any():
        raise ValueError(
            f"patch {threat}: at some location it touches every view, so that nothing is left to "
            "decide by; choose a smaller --patch, or masks that cover it (--covers)"
        )
    if not pairs:
        return
    if len(touched_sv) ** 2 * len(views) > _MOST_WORK:
        raise _too_many(views, threat, len(touched_sv))
    untouched_sv = (~touched_sv).astype(np.float32)
    if views.hides and not (untouched_sv @ untouched_sv.T).all():
        covering = isinstance(views, Masks) and views.pairs
        remedy = (
            "choose a smaller --patch, or masks that cover it (--covers)"
            if covering
            else "vote on --views mask-pair, or ask for detection of one patch with --rule "
            "one-location"
        )
        raise ValueError(
            f"patch {threat}: some two locations are hidden together by no view, which this needs; "
            f"{remedy}"
        )


def _check_size(views: ViewFamily, patch: Patch) -> None:
    """Raise ValueError where the touched sets are too many to list, before they are."""
    ys, xs = views.edges(patch)
    locations = len(ys) * len(xs)
    if locations * len(views) > _MOST_BYTES:
        raise _too_many(views, patch, locations)
    distinct = len(views.touched_sets(patch).touched_sv)
    if distinct**2 * len(views) > _MOST_COMPARED:
        raise _too_many(views, patch, distinct)


def _too_many(views: ViewFamily, patch: Patch | Threat, locations: int) -> ValueError:
    return ValueError(
        f"patch {patch}: {locations} locations of {len(views)} views are too many pairs to look "
        "at; use a coarser --stride, or the exact rule"
    )


def within(inner_sv: BoolArray, outer_sv: BoolArray) -> BoolArray:
    """Tell which sets lie within which others; bool (S, S')."""
    # Counts of views are exact in float32, whose matrix product is fast.
    shared = inner_sv.astype(np.float32) @ outer_sv.T.astype(np.float32)
    inside: BoolArray = np.equal(shared, inner_sv.sum(axis=1)[:, None])
    return inside


def _largest(touched_sv: BoolArray) -> BoolArray:
    """The distinct rows that lie within no other one."""
    distinct_sv = np.unique(touched_sv, axis=0)
    # Distinct sets never lie within each other both ways.
    largest: BoolArray = distinct_sv[within(distinct_sv, distinct_sv).sum(axis=1) == 1]
    return largest
