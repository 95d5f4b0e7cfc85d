"""Two patches on a line of views: every union of two runs, without listing them all.

Shape suffixes: N images, R runs of one patch, L runs that are summed.
"""

from typing import NamedTuple

import numpy as np

from models.ablation import IntArray
from pipeline.certificates.touched import CountArray, Runs


class Pairs(NamedTuple):
    """What two patches can touch where one touches a run of views: any two of R runs.

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
