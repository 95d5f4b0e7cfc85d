"""The exact rule: each location is charged only for the votes that it really holds.

Shape suffixes: N images, V ablations (views), L locations, C classes, K ranks of a tally;
Vy x Vx and Ly x Lx for views and locations along the two axes. Arrays of a chunk have the images
last, so that every operation on views or locations is one on whole contiguous rows.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.ablation import Ablation, BoolArray, IntArray, Patch
from pipeline.certificates.counts import VoteArray, check_votes, chunks, tally

# Votes of a chunk, in as few bytes as their number allows.
CountArray = NDArray[np.signedinteger[Any]]


class Runs(NamedTuple):
    """The views that each location touches along one axis: [first, end) modulo the views.

    The views touched are those whose offsets lie on one arc of the circle, so they follow each
    other in cyclic order and are summed as a difference of two prefix sums.

    Attributes:
        first: First view of the run; int64 (L,).
        end: One behind its last, counted on past the number of views where the run wraps; (L,).
    """

    first: IntArray
    end: IntArray

    @classmethod
    def of(cls, touched_lv: BoolArray) -> "Runs":
        """The distinct runs among the rows of ``touched_lv``; equal rows give equal margins.

        Raises:
            AssertionError: The views touched at some location are not one cyclic run.
        """
        touched_lv = np.unique(touched_lv, axis=0)
        views, length = touched_lv.shape[1], touched_lv.sum(axis=1)
        # Where all or none are touched, no view begins a run, and argmax says 0 as it should.
        first = (touched_lv & ~np.roll(touched_lv, 1, axis=1)).argmax(axis=1)
        run_lv = (np.arange(views) - first[:, None]) % views < length[:, None]
        assert (run_lv == touched_lv).all(), "a patch touches views that are not one cyclic run"
        return cls(first, first + length)

    def sums(self, votes: CountArray) -> CountArray:
        """Sum votes over each run of views; (V, ...) to (L, ...)."""
        prefix = np.zeros((int(self.end.max()) + 1, *votes.shape[1:]), votes.dtype)
        # Row by row: cumsum walks the columns instead, many times slower.
        for view in range(len(prefix) - 1):
            np.add(prefix[view], votes[view % len(votes)], out=prefix[view + 1])
        sums: CountArray = prefix.take(self.end, axis=0)
        sums -= prefix.take(self.first, axis=0)
        return sums


class TouchedViews(NamedTuple):
    """Which views each location touches, one axis at a time.

    Views lie on a grid of Vy x Vx offsets, locations on one of Ly x Lx, and a location touches a
    view iff it does so along both axes: a rectangle of the grid, summed along one axis and then
    along the other. The (L, V) matrix, 2 GB for blocks at stride 1, is never built.
    """

    rows: Runs
    columns: Runs
    grid: tuple[int, int]

    @classmethod
    def of(cls, ablation: Ablation, patch: Patch) -> "TouchedViews":
        """The distinct sets of views that ``patch`` touches, wherever it lies in the image."""
        rows, columns = ablation.touched_axes(patch)
        # Views are numbered row-major: the first ``across`` make up the grid's first row, and
        # every ``across``-th one its first column.
        across = len(np.unique(ablation.positions[:, 1]))
        return cls(
            Runs.of(rows[:, ::across]),
            Runs.of(columns[:, :across]),
            (len(ablation) // across, across),
        )

    @property
    def sizes_l(self) -> IntArray:
        """|I|: the number of views that each location touches; int64 (L,)."""
        rows, columns = (runs.end - runs.first for runs in (self.rows, self.columns))
        return np.outer(rows, columns).ravel()

    def votes(self, chosen_vn: CountArray) -> CountArray:
        """How many of each image's chosen views (0 or 1) each location touches; (L, N)."""
        chosen = chosen_vn.reshape(*self.grid, -1)
        across = self.columns.sums(chosen.swapaxes(0, 1))  # (Lx, Vy, N)
        both = self.rows.sums(across.swapaxes(0, 1))  # (Ly, Lx, N)
        return both.reshape(-1, chosen.shape[2])


def exact_margins(
    votes_nv: VoteArray, ablation: Ablation, patch: Patch, num_classes: int
) -> IntArray:
    """Margin of each image under the exact rule; int64 (N,), certified iff >= 0.

    With c the smoothed prediction, I the set of views that the patch touches at a location, and
    r_j the votes for j outside I:

        margin = min over locations I and j != c of  r_c - r_j - |I| - [j < c]

    Guarantee: a margin >= 0 means that no content of the patch, anywhere, changes the smoothed
    prediction. Tight: a negative margin means that some location and some rewriting of the votes
    it touches do change it, so no rule that sees only votes can certify more.

    Proof: a view outside I shows no pixel of the patch and votes as before. Inside I any votes may
    appear, so c ends with n'_c >= r_c and j with n'_j <= r_j + |I|, and both are equalities when
    all of I votes for j. c is still predicted iff n'_c - n'_j - [j < c] >= 0 for all j != c (lowest
    class wins ties). Never below the uniform margin: r_c >= n_c - |I|, r_j <= n_j, |I| <= Delta.

    Args:
        votes_nv: Class that each ablation voted for, in the ablation's order; integers (N, V).
        ablation: The views that voted.
        patch: Height and width of the adversarial patch, in pixels of the ablation's grid.
        num_classes: Number of classes C; classes without a vote are rivals too.

    Raises:
        ValueError: The votes are malformed or not this ablation's, or the patch does not fit.

    Source: this project: the argument of Levine & Feizi, "(De)Randomized Smoothing", 2020, made
        for the touched set of each location instead of the size of the largest one.
    """
    votes_nv = check_votes(votes_nv, num_classes, len(ablation))
    touched = TouchedViews.of(ablation, patch)
    margins_n = np.empty(len(votes_nv), np.int64)
    for images in chunks(len(votes_nv), 4 * (len(ablation) + touched.sizes_l.size)):
        margins_n[images] = _margins(votes_nv[images], touched, num_classes)
    return margins_n


def _margins(votes_nv: VoteArray, touched: TouchedViews, num_classes: int) -> IntArray:
    """``exact_margins`` of a chunk: one pass a rank, over the images that have such a rival."""
    ranked = tally(votes_nv, num_classes)
    # Images with many rivals first, so that those with a rival at a rank are the first ones.
    voted_n = (ranked.counts_nk > 0).sum(axis=1)
    order = np.argsort(-voted_n, kind="stable")
    voted_n = voted_n[order]
    # No number below exceeds 2 V + 1 in size: two bytes hold it unless there are many views.
    dtype = np.dtype(np.int16 if 2 * votes_nv.shape[1] + 1 < 2**15 else np.int32)
    votes_vn = np.ascontiguousarray(votes_nv[order].T, np.int32)
    classes_kn = np.ascontiguousarray(ranked.classes_nk[order].T, np.int32)
    counts_kn: CountArray = ranked.counts_nk[order].T.astype(dtype)
    wins_ties_kn: CountArray = ranked.wins_ties_nk[order].T.astype(dtype)
    sizes_l: CountArray = touched.sizes_l.astype(dtype)

    def votes_outside(rank: int, images: int) -> CountArray:
        """The r of the class at this rank, for the first images, at every location; (L, images)."""
        chosen_vn = votes_vn[:, :images] == classes_kn[rank, :images]
        outside_ln: CountArray = counts_kn[rank, :images] - touched.votes(chosen_vn.astype(dtype))
        return outside_ln

    # The strongest rival at each location, r_j + [j < c]; no rival has less than 0.
    strongest_ln: CountArray = np.zeros((len(sizes_l), len(votes_nv)), dtype)
    for rank in range(1, len(classes_kn)):
        # Up to its first voteless rank an image has a new rival; the later ones repeat it.
        images = int(np.count_nonzero(voted_n >= rank))
        strength_ln = votes_outside(rank, images) + wins_ties_kn[rank, :images]
        np.maximum(strongest_ln[:, :images], strength_ln, out=strongest_ln[:, :images])

    margins_ln = votes_outside(0, len(votes_nv)) - strongest_ln - sizes_l[:, None]
    margins_n = np.empty(len(votes_nv), np.int64)
    margins_n[order] = margins_ln.min(axis=0)
    return margins_n
