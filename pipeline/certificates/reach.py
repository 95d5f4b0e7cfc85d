"""The sets of views that a threat can touch: of nested ones only the largest.

An attacker who may rewrite more votes can do all that one with fewer can, so a set within another
never decides a certificate, and every rule's margin over a set is at most that over any part of it.

Shape suffixes: N images, L sets of touched views. Arrays have the images last, so that every
operation on sets is one on whole contiguous rows.
"""

from functools import lru_cache
from typing import NamedTuple

from models.ablation import Ablation, IntArray, Patch
from pipeline.certificates.pairs import Pairs
from pipeline.certificates.threats import Threat
from pipeline.certificates.touched import CountArray, Runs, TouchedViews


class Reach(NamedTuple):
    """The sets of views that the attacker's rectangle can touch, of nested ones the largest.

    Attributes:
        touched: The sets; with two rectangles also what ``pairs`` needs.
        sizes_l: |I|, the number of views in each set; int64 (L,).
        pairs: Where the attacker has two rectangles, how the sets combine; else None.
    """

    touched: TouchedViews
    sizes_l: IntArray
    pairs: Pairs | None = None

    def counts(self, prefix: CountArray) -> CountArray:
        """How many of some chosen views each set holds, from their ``prefix_sums``; (L, N)."""
        return self.touched.counts(prefix)

    def worst(self, costs_ln: CountArray) -> CountArray:
        """The largest cost of all that the attacker can touch; (L, N) to (N,).

        Args:
            costs_ln: Cost of each set: a sum over its views, of numbers that are not negative.
        """
        if self.pairs is not None:
            return self.pairs.worst(costs_ln)
        worst_n: CountArray = costs_ln.max(axis=0)
        return worst_n


@lru_cache(maxsize=4096)
def reaches(ablation: Ablation, threat: Threat) -> tuple[Reach, ...]:
    """What the threat can touch: one ``Reach`` a rectangle that matters.

    Area budgets. A column ablation shows whole columns, so of a rectangle only its width matters,
    which is min(k, W) at most, and a budget of k pixels is the one patch of 1 x min(k, W) pixels.
    From k = W on that patch is as wide as the image and touches every view, and no image is ever
    certified. Rows likewise, with a patch of min(k, H) x 1 pixels and from k = H on. Blocks tell
    heights and widths apart: every rectangle that no other one contains matters.

    Raises:
        ValueError: A patch does not fit the image, or there are several, and not just two on column
            or row ablations.
    """
    kept: list[Reach] = []
    for patch in threat.patches(ablation):
        reach = _reach(ablation, patch, threat.count)
        # Of rectangles of equal reach the first one stays.
        if not any(_within(reach, other) for other in kept):
            kept = [other for other in kept if not _within(other, reach)] + [reach]
    return tuple(kept)


def _reach(ablation: Ablation, patch: Patch, count: int) -> Reach:
    touched, cells = ablation.touched_grid(patch), ablation.grid.shape
    axes = [Runs.each(runs).largest(views) for runs, views in zip(touched, cells, strict=True)]
    pairs = None
    if count > 1:
        if count > 2 or ablation.kind == "block":
            raise ValueError(
                f"{count} patches on {ablation.kind} ablations: place by place, votes are counted "
                "for one patch, or for two on column or row ablations; use the uniform rule"
            )
        line = 0 if ablation.kind == "row" else 1
        if cells[line] > 1:  # one view is touched by one patch as well as by two
            pairs, axes[line] = Pairs.of(axes[line], cells[line])
    views = TouchedViews(axes[0], axes[1], ablation)
    return Reach(views, views.sizes_l, pairs)


def _within(reach: Reach, other: Reach) -> bool:
    """Whether every set of one reach lies in some set of the other."""
    cells = reach.touched.ablation.grid.shape
    return all(
        bool(inner.within(outer, views).any(axis=1).all())
        for inner, outer, views in zip(reach.touched[:2], other.touched[:2], cells, strict=True)
    )
