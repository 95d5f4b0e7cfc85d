"""Double masking against a transcription of its published inference."""

import numpy as np
import pytest

from models.views.family import Patch
from models.views.masks import Mask, Masks, Placement
from pipeline.certificates import RULES, Threat, VoteBatch
from tests.pipeline.certificates.decisions_judge import (
    broken,
    every_vector,
    grid,
    label_tables,
    line,
    patchcleanser,
)

DOUBLE, TWO = RULES["double-masking"], RULES["two-location"]
DISJOINT = [
    (line(6, (0, 2), (2, 2), (4, 2), patch=1), 3),
    (line(8, (0, 2), (2, 2), (4, 2), (6, 2), patch=1), 2),
    (grid(4, 4, (0, 0, 2, 2), (0, 2, 2, 2), (2, 0, 2, 2), (2, 2, 2, 2)), 2),
    (line(8, (0, 4), (2, 4), (4, 4), patch=2), 3),
    (line(9, (0, 3), (2, 4), (4, 3), (6, 3), patch=1), 2),
]


@pytest.mark.parametrize(("scene", "num_classes"), DISJOINT)
def test_every_vector_has_the_published_answer_and_certificate(scene, num_classes):
    votes = every_vector(len(scene.shown()), num_classes)
    tables = label_tables(votes, len(scene.masks))
    expected = np.array([patchcleanser(table, num_classes) for table in tables])
    batch, threat = scene.batch(votes, num_classes), scene.threat()
    DOUBLE.check(batch.views, threat, num_classes)
    np.testing.assert_array_equal(DOUBLE.predict(batch, threat), expected)
    certified = DOUBLE.margins(batch, threat) >= 0
    np.testing.assert_array_equal(certified, (votes == votes[:, :1]).all(axis=1))
    assert broken(expected, certified, scene.touched(), votes.shape[1]) == 0


@pytest.mark.parametrize(("scene", "num_classes"), DISJOINT[:3])
def test_the_certificate_is_necessary(scene, num_classes):
    """With masks that do not overlap, every other vector is one patch from another answer."""
    votes = every_vector(len(scene.shown()), num_classes)
    batch, threat = scene.batch(votes, num_classes), scene.threat()
    answers = DOUBLE.predict(batch, threat)
    certified = DOUBLE.margins(batch, threat) >= 0
    alone = np.zeros(len(votes), bool)
    uncertified = np.flatnonzero(~certified)
    for number in uncertified:
        alone[number] = True
        assert broken(answers, alone, scene.touched(), votes.shape[1]) == 1, votes[number]
        alone[number] = False
        if number > uncertified[300]:
            break


@pytest.mark.parametrize(("scene", "num_classes"), DISJOINT[:3])
def test_beside_the_two_location_decision(scene, num_classes):
    """On masks that do not overlap, each pair is the only view that hides its two places.

    So both need all pairs to agree; the labels of one mask alone, which the published inference
    begins with, are one of many to the plurality. A mask that passes the second round is a witness.
    """
    votes = every_vector(len(scene.shown()), num_classes)
    tables, threat = label_tables(votes, len(scene.masks)), scene.threat()
    batch = scene.batch(votes, num_classes)
    published, two = DOUBLE.predict(batch, threat), TWO.predict(batch, threat)
    certified = TWO.margins(batch, threat) >= 0
    pairs = [number for number, (i, j) in enumerate(scene.numbering()) if i != j]
    np.testing.assert_array_equal(certified, (votes[:, pairs] == votes[:, pairs[:1]]).all(axis=1))
    assert certified[DOUBLE.margins(batch, threat) >= 0].all()
    unanimous_rows = (tables == tables[:, :, :1]).all(axis=2)
    diagonal = tables.diagonal(axis1=1, axis2=2)
    passes = unanimous_rows & (diagonal != diagonal[:, :1]).any(axis=1)[:, None]
    assert passes.any()
    np.testing.assert_array_equal(two[passes.any(axis=1)], published[passes.any(axis=1)])


def masks_of(length: int, patch: int, most: int) -> Masks:
    """Pairs of the published masks of a square image."""
    axis = Placement.covering(length, patch, most)
    sides = {"height": length, "width": length, "placements": [(axis, axis)]}
    return Masks.placed(**sides, pairs=True, covers=[Patch.square(patch)])


@pytest.mark.parametrize("most", [2, 3, 4])
def test_random_vectors_on_larger_grids(most):
    views = masks_of(32, 5, most)
    masks, rng = len(views.masks), np.random.default_rng(most)
    tables = []
    for _ in range(400):
        few = rng.choice([0, 0.02, 0.1, 0.4])
        table = np.where(rng.random((masks, masks)) < few, rng.integers(4), rng.integers(4))
        for row in np.flatnonzero(rng.random(masks) < 0.15):  # disagreers with a row of their own
            table[row], table[:, row] = (rng.integers(4),) * 2
        tables.append(np.triu(table) + np.triu(table, 1).T)
    votes = np.array([[t[i, j] for i in range(masks) for j in range(i, masks)] for t in tables])
    expected = np.array([patchcleanser(table, 4) for table in tables])
    batch, threat = VoteBatch(votes, views, 4), Threat.square(5)
    np.testing.assert_array_equal(DOUBLE.predict(batch, threat), expected)
    unanimous = (votes == votes[:, :1]).all(axis=1)
    certified = DOUBLE.margins(batch, threat) >= 0
    np.testing.assert_array_equal(certified, unanimous)
    assert unanimous.any()
    two = TWO.margins(batch, threat) >= 0
    assert not (certified & ~two).any()
    np.testing.assert_array_equal(TWO.predict(batch, threat)[certified], expected[certified])


def test_few_views_can_differ_and_leave_the_certificate():
    """606 of 666 are each the only view that hides some two locations of 32 px at 6 masks."""
    views = masks_of(224, 32, 6)
    assert len(views) == 666
    hidden = np.unique(~views.touched_sets(Patch.square(32)).touched_sv, axis=0)
    needed = np.zeros(666, bool)
    for one in hidden:
        both = one & hidden
        needed |= both[both.sum(axis=1) == 1].any(axis=0)
    assert needed.sum() == 606

    votes = np.zeros((666, 666), int) + 1
    np.fill_diagonal(votes, 0)
    batch = VoteBatch(votes, views, 2)
    certified = TWO.margins(batch, Threat.square(32)) >= 0
    assert not certified[needed].any()
    assert (DOUBLE.margins(batch, Threat.square(32)) == -1).all()


def test_overlapping_masks_certify_more_by_plurality():
    views = Masks(
        height=1,
        width=6,
        masks=tuple(Mask(0, x, 1, 4) for x in range(3)),
        pairs=True,
        covers=(Patch(1, 1),),
    )
    votes = every_vector(6, 2)
    batch, threat = VoteBatch(votes, views, 2), Threat(Patch(1, 1))
    two, double = TWO.margins(batch, threat) >= 0, DOUBLE.margins(batch, threat) >= 0
    assert not (double & ~two).any()
    assert two.sum() > double.sum()


def test_sets_of_votes_have_no_one_label():
    scene = DISJOINT[0][0]
    sets = np.tile([[[0, 1]]], (2, 6, 1))
    batch = scene.batch(sets, 3)
    for ask in (DOUBLE.predict, DOUBLE.margins):
        with pytest.raises(ValueError, match=r"sets of votes.*one label a view; use two-location"):
            ask(batch, scene.threat())
    assert (TWO.margins(batch, scene.threat()) >= 0).all()
