"""Early exit gives the answers and certificates of all labels, whatever the labels are."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.views.family import Patch
from models.views.masks import Mask, Masks, Placement
from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch
from pipeline.certificates.early_exit import EarlyExit
from pipeline.certificates.rules import RULES


def covering(height: int, width: int, patch: Patch, rows: int, columns: int) -> Masks:
    down = Placement.covering(height, patch.height, rows)
    across = Placement.covering(width, patch.width, columns)
    return Masks.placed(
        height=height, width=width, placements=[(down, across)], pairs=True, covers=(patch,)
    )


def at_stride(side: int, extent: int, stride: int, covers: int, *, wraps: bool = False) -> Masks:
    one = Placement.at_stride(side, extent, stride, wraps=wraps)
    plain = {"height": side, "width": side, "placements": [(one, one)]}
    return Masks.placed(**plain, pairs=True, covers=(Patch.square(covers),))


@functools.cache
def families() -> dict[str, Masks]:
    """Some whose critical views are most of all, and some where few or no views are critical."""
    whole = Placement(8, (0,))
    quarters = Placement(2, (0, 2, 4, 6))
    return {
        "2x2": covering(8, 8, Patch.square(2), 2, 2),
        "3x3": covering(9, 9, Patch.square(2), 3, 3),
        "4x2": covering(10, 7, Patch(3, 2), 4, 2),
        "full height": covering(6, 12, Patch.square(2), 1, 5),
        "overlapping": at_stride(8, 4, 1, 2),
        "far larger than the patch": at_stride(9, 5, 2, 1),
        "wrapped": at_stride(8, 4, 2, 2, wraps=True),
        # Two masks that abut hide a patch together: sets with views that no single mask explains.
        "abutting": Masks(
            height=8,
            width=8,
            masks=tuple(Mask(0, x, 8, 2) for x in range(0, 8, 2))
            + tuple(Mask(0, x, 8, 3) for x in range(6)),
            pairs=True,
            covers=(Patch.square(2),),
        ),
        "one for all": Masks.placed(
            height=8, width=8, placements=[(whole, whole)], pairs=True, covers=(Patch.square(2),)
        ),
        "single pixels": Masks.placed(
            height=8, width=8, placements=[(whole, quarters)], pairs=True, covers=(Patch.square(1),)
        ),
    }


FAMILIES = list(families())


def ask(order: EarlyExit, labels_v: np.ndarray, gaps_v: np.ndarray, plain: int) -> np.ndarray:
    """The labels that early exit sees, -1 elsewhere."""
    seen_v = np.full(len(labels_v), -1)
    while (asked := order.next(seen_v, np.where(seen_v < 0, 0, gaps_v), plain)) is not None:
        assert len(asked)
        assert (seen_v[asked] < 0).all(), "a view is asked once"
        seen_v[asked] = labels_v[asked]
    return seen_v


def answers(views: Masks, votes_nv: np.ndarray, plain_n: np.ndarray, classes: int):
    """By rule that is allowed on early exit, answers and certificates."""
    threat, found = Threat(views.covers[0]), {}
    for name, rule in RULES.items():
        try:
            rule.check(views, threat, classes)
            rule.check_early(views, threat)
        except ValueError:
            continue
        batch = VoteBatch(votes_nv, views, classes, plain_n=plain_n)
        found[name] = rule.predict(batch, threat), rule.margins(batch, threat) >= 0
    return found


@st.composite
def tables(draw, most_classes: int = 4):
    """A family, and label tables from unanimous ones to noise, some with a patch written in."""
    name = draw(st.sampled_from(FAMILIES))
    views, rng = families()[name], np.random.default_rng(draw(st.integers(0, 2**32)))
    classes, count = draw(st.integers(2, most_classes)), 12
    stays = rng.choice([0.5, 0.9, 0.97, 1.0], (count, 1))
    favourite_n1 = rng.integers(0, classes, (count, 1))
    votes_nv = rng.integers(0, classes, (count, len(views)))
    votes_nv = np.where(rng.random(votes_nv.shape) < stays, favourite_n1, votes_nv)
    touched_sv = views.touched_sets(views.covers[0]).touched_sv
    for image in range(0, count, 2):  # an attack leaves one witness for the old answer
        touched_v = touched_sv[rng.integers(len(touched_sv))]
        votes_nv[image, touched_v] = (
            rng.integers(0, classes, touched_v.sum()) if rng.random() < 0.5 else 0
        )
    plain_n = np.where(rng.random(count) < 0.5, favourite_n1[:, 0], rng.integers(0, classes, count))
    return name, votes_nv, plain_n, classes, rng.random(votes_nv.shape)


@settings(max_examples=150, deadline=None)
@given(tables())
def test_the_labels_asked_answer_as_all_labels_do(table):
    name, votes_nv, plain_n, classes, gaps_nv = table
    views, order = families()[name], order_of(name)
    seen_nv = np.stack(
        [
            ask(order, votes_v, gaps_v, plain)
            for votes_v, gaps_v, plain in zip(votes_nv, gaps_nv, plain_n.tolist(), strict=True)
        ]
    )
    assert (seen_nv[:, views.alone] >= 0).all()
    some, every = (answers(views, votes, plain_n, classes) for votes in (seen_nv, votes_nv))
    assert {"two-location", "one-location"} <= every.keys()
    for rule in every:
        for ours, theirs in zip(some[rule], every[rule], strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=rule)
    # A certificate takes every view that must agree: were it given early, the rest could differ.
    certified_n = every["two-location"][1]
    assert (seen_nv[certified_n] >= 0).all()


@functools.cache
def order_of(name: str) -> EarlyExit:
    return EarlyExit(families()[name])


@pytest.mark.parametrize("name", ["2x2", "3x3", "full height"])
def test_every_label_table_of_two_classes(name):
    """Every table of the few views of 2x2; of the others those with at most two dissenters."""
    views = families()[name]
    count = len(views)
    if count <= 10:
        votes_nv = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
    else:
        flips = np.eye(count, dtype=np.int64)
        votes_nv = np.unique((flips[:, None] | flips[None]).reshape(-1, count), axis=0)
        votes_nv = np.concatenate([votes_nv, 1 - votes_nv])
    gaps_nv = np.random.default_rng(0).random(votes_nv.shape)
    for plain in (0, 1):
        plain_n = np.full(len(votes_nv), plain)
        seen_nv = np.stack(
            [
                ask(order_of(name), votes_v, gaps_v, plain)
                for votes_v, gaps_v in zip(votes_nv, gaps_nv, strict=True)
            ]
        )
        some, every = (answers(views, votes, plain_n, 2) for votes in (seen_nv, votes_nv))
        for rule in every:
            for ours, theirs in zip(some[rule], every[rule], strict=True):
                np.testing.assert_array_equal(ours, theirs, err_msg=rule)


def test_work_is_saved_where_an_image_cannot_be_certified():
    """About half, where half of the images have a dissenter; all views of a certified one."""
    views, rng = covering(32, 32, Patch.square(4), 6, 6), np.random.default_rng(0)
    order = EarlyExit(views)
    votes_nv, shares = np.zeros((40, len(views)), np.int64), []
    votes_nv[20:] = rng.random((20, len(views))) < 0.1
    for votes_v in votes_nv:
        gaps_v = np.where(votes_v == 0, 1.0, 0.1) + rng.random(len(views)) / 10
        shares.append((ask(order, votes_v, gaps_v, 0) >= 0).mean())
    assert set(shares[:20]) == {1.0}
    assert np.mean(shares[20:]) < 0.4
    assert np.mean(shares) < 0.7


@pytest.mark.parametrize("mutant", ["asks once", "stops at two labels", "looks for no witness"])
def test_mutants_fail(mutant, monkeypatch):
    """Were the order wrong in one of these ways, the tests above would see it."""
    honest = EarlyExit.next

    def hasty(self, labels_v, gaps_v, plain):
        known = labels_v[labels_v >= 0]
        enough = len(known) if mutant == "asks once" else len(np.unique(known)) > 1
        return None if enough else honest(self, labels_v, gaps_v, plain)

    if mutant == "looks for no witness":
        monkeypatch.setattr(EarlyExit, "_towards_witness", lambda *_: None)
    else:
        monkeypatch.setattr(EarlyExit, "next", hasty)
    with pytest.raises(AssertionError):
        test_the_labels_asked_answer_as_all_labels_do()
