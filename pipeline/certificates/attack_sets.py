"""The sets of views that a threat can touch: of nested ones only the largest.

An attacker who may rewrite more votes can do all that one with fewer can, so a set within another
never decides a certificate, and every rule's margin over a set is at most that over any part of it.

Shape suffixes: N images, L sets of touched views. Arrays have the images last, so that every
operation on sets is one on whole contiguous rows.

Two patches on a line of views: every union of two runs, without listing them all.

Shape suffixes: N images, R runs of one patch, L runs that are summed.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from models.views.ablations import Ablation
from models.views.family import IntArray, Patch, ViewFamily
from models.views.threats import Threat
from pipeline.certificates.touched import CountArray, Runs, TouchedViews


class Pairs(NamedTuple):
    """Sets that two patches can touch where one touches a run of views: any two of R runs.

    Two runs that share no view cost the sum of both. Two that share one make a single run, and of
    those that begin with run i the largest reaches to the end of the last run that begins inside i.
    So R^2 / 2 pairs take at most 2 R sums and, for each run, the largest cost among its partners,
    which follow each other: R log R steps.

    Attributes:
        runs: R: the first so many of the L runs that are summed; the others are unions.
        first: First later run that shares no view with each of them; int64 (R,).
        end: One behind the last one; not above ``first`` where there is none; int64 (R,).
    """

    runs: int
    first: IntArray
    end: IntArray

    @classmethod
    def of(cls, runs: Runs, views: int) -> tuple["Pairs", Runs]:
        """All pairs of ``runs``, and the L runs to sum.

        Proof that partners follow each other: no run lies within another, so in the order of first
        views the ends ascend as well. A later run shares no view with run i iff it begins where i
        has ended, as do all after it, and ends before i begins again, as do all before it.

        Args:
            runs: Runs of one patch, none within another, in the order of their first views.
            views: Number of views on the circle.
        """
        first, end = runs
        partners = cls(
            len(first),
            np.searchsorted(first, end, side="left"),
            np.searchsorted(end, first + views, side="right"),
        )
        # Counted on past the circle's end, since a run may meet one that begins behind it.
        last = np.searchsorted(np.append(first, first + views), end, side="left") - 1
        reach = np.minimum(np.append(end, end + views)[last], first + views)
        unions = Runs(first, reach).largest(views)
        return partners, Runs(*map(np.append, runs, unions))

    def worst(self, costs_ln: CountArray) -> CountArray:
        """The largest cost of a union of two runs; (L, N) to (N,).

        Args:
            costs_ln: Cost of each run to sum: one number, not negative, a view.
        """
        worst_n: CountArray = costs_ln[self.runs :].max(axis=0)
        partners = self.end - self.first
        # Of a row of partners the largest cost is that of its first and last 2^k, which overlap.
        highest_rn, span = costs_ln[: self.runs], 1
        while span <= partners.max(initial=0):
            at = np.flatnonzero((span <= partners) & (partners < 2 * span))
            if len(at):
                pair_ln = highest_rn.take(self.first[at], axis=0)
                np.maximum(pair_ln, highest_rn.take(self.end[at] - span, axis=0), out=pair_ln)
                pair_ln += costs_ln.take(at, axis=0)
                np.maximum(worst_n, pair_ln.max(axis=0), out=worst_n)
            highest_rn = np.maximum(highest_rn[:-span], highest_rn[span:])
            span *= 2
        return worst_n


class AttackSets(NamedTuple):
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
        """Count some chosen views in each set, from their ``prefix_sums``; (L, N)."""
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
def attack_sets(ablation: Ablation, threat: Threat) -> tuple[AttackSets, ...]:
    """List what the threat can touch: one ``AttackSets`` a rectangle that matters.

    Area budgets. A column ablation shows whole columns, so of a rectangle only its width matters,
    which is min(k, W) at most, and a budget of k pixels is the one patch of 1 x min(k, W) pixels.
    From k = W on that patch is as wide as the image and touches every view, and no image is ever
    certified. For rows it is the same, with a patch of min(k, H) x 1 pixels and from k = H on.
    Blocks tell heights and widths apart: every rectangle that no other one contains matters.

    Raises:
        ValueError: A patch does not fit the image, or there are several, and not just two on column
            or row ablations.
    """
    kept: list[AttackSets] = []
    for patch in threat.patches(ablation):
        reach = _reach(ablation, patch, threat.count)
        # Of rectangles of equal reach the first one stays.
        if not any(_within(reach, other) for other in kept):
            kept = [other for other in kept if not _within(other, reach)] + [reach]
    return tuple(kept)


def check_count(views: ViewFamily, count: int) -> None:
    """Raise ValueError unless the sets of so many patches can be listed."""
    if count > 2 or (count > 1 and all(views.varies)):
        raise ValueError(
            f"{count} patches on {views.describe().shape} ablations: place by place, votes are "
            "counted for one patch, or for two on column or row ablations; use the uniform rule"
        )


def _reach(ablation: Ablation, patch: Patch, count: int) -> AttackSets:
    touched, cells = ablation.touched_grid(patch), ablation.grid.shape
    axes = [Runs.each(runs).largest(views) for runs, views in zip(touched, cells, strict=True)]
    pairs = None
    check_count(ablation, count)
    if count > 1:
        line = ablation.varies.index(True)
        if cells[line] > 1:  # one view is touched by one patch as well as by two
            pairs, axes[line] = Pairs.of(axes[line], cells[line])
    views = TouchedViews(axes[0], axes[1], ablation)
    return AttackSets(views, views.sizes_l, pairs)


def _within(reach: AttackSets, other: AttackSets) -> bool:
    """Return True if every set of one lies in some set of the other."""
    cells = reach.touched.ablation.grid.shape
    return all(
        bool(inner.within(outer, views).any(axis=1).all())
        for inner, outer, views in zip(reach.touched[:2], other.touched[:2], cells, strict=True)
    )
