"""Effect of a patch on each image at each location: margins and closest rivals.

They are those of a rule (``Rule.margins_at``) whose margin is the smallest of them, by default
``rules.rule_of_locations``. Questions about
*where* a prediction breaks are answered here: the picture of one image, the map of a run's breaking
locations, and the witnesses (``witness``).

Shape suffixes: N images, V ablations (views), T slots of a vote set, C classes, S distinct sets of
touched views, Ly x Lx locations. Arrays of a batch have the images last.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.views.ablations import Ablation
from models.views.family import IntArray, Patch, ViewFamily
from models.views.threats import Threat
from pipeline.certificates.batch import vote_batches
from pipeline.certificates.rule import Rule
from pipeline.certificates.rules import rule_of_locations
from pipeline.certificates.touched import CountArray, Locations
from pipeline.certificates.votes import VoteArray, chunks


class LocationMargins(NamedTuple):
    """Margins of N images at every location.

    Attributes:
        predictions_n: The rule's prediction c; int64 (N,).
        margins_nyx: As ``exact_at``: a patch there can change the prediction iff it is negative;
            int32 (N, Ly, Lx).
        rivals_nyx: The class that attains it; int32 (N, Ly, Lx).
    """

    predictions_n: IntArray
    margins_nyx: NDArray[np.int32]
    rivals_nyx: NDArray[np.int32]


def touched_counts(ablation: Ablation, patch: Patch) -> IntArray:
    """|I|: the number of views that the patch touches at each location; int64 (Ly, Lx).

    Raises:
        ValueError: The patch does not fit the image.
    """
    where = Locations.of(ablation, patch)
    return where.grid.sizes_l[where.sets_yx]


def location_margins(
    votes: VoteArray, ablation: Ablation, patch: Patch, num_classes: int
) -> Iterator[tuple[slice, LocationMargins]]:
    """Margins and rivals at every location, a slice of the images at a time, in bounded memory.

    Args:
        votes: Class that each ablation voted for, in the ablation's order, integers (N, V), or
            the set of classes, (N, V, T) with -1 in empty slots.
        ablation: The views that voted; the same for every image.
        patch: Height and width of the patch, in pixels of the ablation's grid.
        num_classes: Number of classes C; classes without a vote are rivals too.

    Raises:
        ValueError: The votes are malformed or not this ablation's, or the patch does not fit.
    """
    where = Locations.of(ablation, patch)
    expanded = 2 * where.sets_yx.size
    for images, predictions_n, margins_sn, rivals_sn in margins_by_set(
        votes, where, num_classes, more=expanded
    ):
        assert rivals_sn is not None, "the exact rule names a rival"
        flat = where.sets_yx.ravel()
        shape = (len(predictions_n), *where.sets_yx.shape)
        margins_nyx = margins_sn.T[:, flat].astype(np.int32).reshape(shape)
        rivals_nyx = rivals_sn.T[:, flat].reshape(shape)
        yield images, LocationMargins(predictions_n, margins_nyx, rivals_nyx)


class Breaking(NamedTuple):
    """Number of images that a patch can break; the numbers of several sets of images add up.

    Attributes:
        images: Images asked about.
        counts_yx: Those whose prediction a patch at each location can change; int64 (Ly, Lx).
        anywhere: Those whose prediction it can change at some location: not certified.
    """

    images: int
    counts_yx: IntArray
    anywhere: int


def breaking(
    votes: VoteArray, views: ViewFamily, patch: Patch, num_classes: int, rule: Rule | None = None
) -> Breaking:
    """Count the images whose prediction a patch can change, location by location.

    Args:
        votes: As ``location_margins``; of views that hide, -1 where one was not asked.
        views: The views that voted.
        patch: As ``location_margins``.
        num_classes: As ``location_margins``.
        rule: A rule with margins of locations; None for the views' own.

    Raises:
        ValueError: As ``location_margins``.
    """
    where = Locations.of(views, patch)
    counts_s, anywhere = np.zeros(where.sets, np.int64), 0
    for _, _, margins_sn, _ in margins_by_set(votes, where, num_classes, rule):
        breaks_sn = margins_sn < 0
        counts_s += breaks_sn.sum(axis=1)
        anywhere += int(breaks_sn.any(axis=0).sum())
    return Breaking(len(votes), counts_s[where.sets_yx], anywhere)


def margins_by_set(
    votes: VoteArray,
    where: Locations,
    num_classes: int,
    rule: Rule | None = None,
    more: int = 0,
) -> Iterator[tuple[slice, IntArray, CountArray, CountArray | None]]:
    """Slices of the images with predictions (N,), margins (S, N) and rivals (S, N).

    Args:
        votes: As ``breaking``.
        where: The locations, and the views that voted.
        num_classes: Number of classes C.
        rule: As ``breaking``.
        more: Numbers that the caller will hold for each image.

    Raises:
        ValueError: As ``location_margins``.
    """
    rule, threat = rule or rule_of_locations(where.views), Threat(where.patch)
    for images, batch in vote_batches(votes, where.views, num_classes):
        # A batch may hold more images than their margins everywhere should be held of.
        for part in chunks(len(batch), 8 * where.sets + more):
            some = batch.take(np.arange(len(batch))[part])
            start = images.start + part.start
            found = rule.margins_at(some, where)
            assert found is not None, "the rule has margins of locations"
            yield slice(start, start + len(some)), rule.predict(some, threat), *found
