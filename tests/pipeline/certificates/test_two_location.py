"""Recovery by two locations: the unsound variant, larger families, and no loss to ``exact``."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.certificates import RULES, Threat, VoteBatch
from pipeline.certificates.two_location import TwoLocation
from tests.pipeline.certificates.agreement import knows
from tests.pipeline.certificates.bruteforce import Geometry, patch_masks
from tests.pipeline.certificates.cases import clustered_votes, some_sets, some_votes
from tests.pipeline.certificates.decision_scenes import SCENES
from tests.pipeline.certificates.decisions_judge import (
    Pairs,
    Scene,
    broken,
    every_vector,
    grid,
    largest,
    line,
    outside,
)

TWO, EXACT = RULES["two-location"], RULES["exact"]


def test_the_scenes_hold_certified_vectors_and_others():
    fit = both = 0
    for scene, num_classes, most in SCENES:
        votes = every_vector(len(scene.shown()), num_classes, most)
        batch, threat = scene.batch(votes, num_classes), scene.threat()
        if knows(TWO, batch.views, threat, num_classes):
            certified = TWO.margins(batch, threat) >= 0
            fit += 1
            # All are, where a view shows nothing: no patch touches it, and its label decides.
            both += bool(certified.any() and not certified.all())
            assert certified.all() <= (not scene.shown().any(axis=(1, 2)).all()), scene
    assert fit >= 15
    assert both >= 13


def test_witnesses_without_a_certificate_and_vectors_without_a_witness():
    kinds = set()
    for scene, num_classes, most in SCENES:
        votes = every_vector(len(scene.shown()), num_classes, most)
        pairs = Pairs.of(votes, largest(scene.touched()), num_classes)
        some = np.any([pairs.witnesses(y) for y in range(num_classes)], axis=(0, 1))
        every = np.any([pairs.witnesses(y).all(axis=0) for y in range(num_classes)], axis=0)
        kinds |= set(zip(some.tolist(), every.tolist(), strict=True))
    assert kinds == {(True, True), (True, False), (False, False)}


def test_the_smaller_location_in_the_larger_ones_place_is_unsound():
    """phi(U_r and U_R') = y for every small r and large R' is no certificate of the decision for P.

    An attack at r leaves U_r alone, but r is never asked: only large locations are witnesses.
    """
    refuted = sound = 0
    scenes = [Scene(Geometry("column", 1, 1, 1, width, 1, 2)) for width in (5, 6, 7, 8)] + [
        line(6, (0, 3), (2, 3), (3, 3), patch=2),
        Scene(Geometry("row", 1, 1, 9, 1, 3, 1)),
    ]
    for scene in scenes:
        little = set(replace(scene, g=replace(scene.g, patch_height=1, patch_width=1)).touched())
        views = len(scene.shown())
        votes = every_vector(views, 2)
        smaller = Threat(Patch(1, 1))
        rule, batch = TwoLocation(scene.threat()), scene.batch(votes, 2)
        answers, margins = rule.predict(batch, smaller), rule.margins(batch, smaller)
        phi = [
            outside(votes, r | big, 2).argmax(axis=1)
            for r in little
            for big in largest(scene.touched())
        ]
        unsound = (np.array(phi) == answers).all(axis=0)
        refuted += broken(answers, unsound, little, views)
        assert broken(answers, margins >= 0, little, views) == 0
        sound += int((margins >= 0).sum())
    assert refuted > 0
    assert sound > 0


def attacked(votes: np.ndarray, sets: list[frozenset[int]], seed: int) -> np.ndarray:
    """Votes with those of one set an image rewritten: all for one class, or those of others."""
    rng = np.random.default_rng(seed)
    after = votes.copy()
    for image in range(len(votes)):
        chosen = list(sets[rng.integers(len(sets))])
        other = votes[rng.integers(len(votes))]
        after[image, chosen] = other[chosen] if rng.random() < 0.5 else other[:1]
    return after


def nearly(num_views: int, num_classes: int, images: int, seed: int) -> np.ndarray:
    """Votes of which a few dissent."""
    rng = np.random.default_rng(seed)
    shape = (images, num_views)
    dissents = rng.random(shape) < rng.choice([0, 0.02, 0.1, 0.3], (images, 1))
    favourite = rng.integers(num_classes, size=(images, 1))
    return np.where(dissents, rng.integers(num_classes, size=shape), favourite)


SQUARES = [(y, x, 4, 4) for y in (0, 2, 4) for x in (0, 2, 4)]
TORUS = tuple((y, x, 8, 8) for y in range(0, 10, 2) for x in range(0, 10, 2))
LARGER = [
    grid(8, 8, *SQUARES, patch=(2, 2)),
    grid(8, 8, *SQUARES, (0, 0, 8, 3), (0, 3, 8, 3), (0, 5, 8, 3), patch=(3, 1)),  # a union
    Scene(Geometry("mask", 0, 0, 10, 10, 2, 2), TORUS),
    Scene(Geometry("column", 3, 1, 2, 16, 1, 3)),
    Scene(Geometry("row", 3, 2, 17, 2, 4, 1)),
    Scene(Geometry("block", 2, 2, 7, 8, 2, 1)),
    Scene(Geometry("block", 2, 3, 9, 7, 0, 0, area=4)),
    Scene(Geometry("mask", 0, 0, 8, 8, 0, 0, area=3), (*SQUARES, (0, 0, 3, 8), (3, 0, 5, 8)), True),
]


@pytest.mark.parametrize("place", range(len(LARGER)))
@pytest.mark.parametrize("most", [None, 2], ids=["labels", "sets"])
def test_larger_families(place, most):
    scene = LARGER[place]
    views, sets = len(scene.shown()), scene.touched()
    votes = nearly(views, 4, 60, place)
    votes = np.concatenate([votes, clustered_votes(views, 4, 30, place)])
    if most:
        votes = np.concatenate(
            [some_sets(views, 4, most, 60, place), np.stack([votes, votes * 0 - 1], axis=2)]
        )
    plain = np.arange(len(votes)) % 5 - 1
    batch, threat = scene.batch(votes, 4, plain=plain), scene.threat()
    TWO.check(batch.views, threat, 4)
    pairs = Pairs.of(votes, largest(sets), 4)
    fallback = np.where(plain >= 0, plain, outside(votes, frozenset(), 4).argmax(axis=1))
    expected = pairs.answers(fallback)
    answers, margins = TWO.predict(batch, threat), TWO.margins(batch, threat)
    np.testing.assert_array_equal(answers, expected)
    certified = (pairs.phi_ssn == expected).all(axis=(0, 1))
    np.testing.assert_array_equal(margins >= 0, certified)
    assert 0 < certified.sum() < len(votes)
    for seed in range(20):
        # The attacker owns the plain prediction, too.
        after = scene.batch(attacked(votes, sets, seed), 4, plain=(plain + seed) % 4)
        np.testing.assert_array_equal(TWO.predict(after, threat)[certified], answers[certified])


@st.composite
def voted_ablations(draw):
    kind = draw(st.sampled_from(["column", "row", "block"]))
    longest = 7 if kind == "block" else 26
    height, width = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    limit = {"column": width, "row": height, "block": min(height, width)}[kind]
    size = draw(st.integers(1, max(1, limit // 2)))
    stride = draw(st.integers(1, max(1, limit // 2)))
    views = Ablation(kind=kind, size=size, stride=stride, height=height, width=width)
    if draw(st.booleans()):
        threat = Threat(area=draw(st.integers(1, 6)))
    else:
        sides = draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width)))
        threat = Threat(Patch(*sides))
    classes, seed = draw(st.integers(2, 5)), draw(st.integers(0, 2**32 - 1))
    most = draw(st.sampled_from([None, 1, 2]))
    if most:
        return views, threat, classes, some_sets(len(views), classes, most, 20, seed)
    made = draw(st.sampled_from([some_votes, clustered_votes]))
    return views, threat, classes, made(len(views), classes, 30, seed)[:400]


@settings(max_examples=120, deadline=None, database=None)
@given(voted_ablations())
def test_it_never_certifies_less_than_exact(case):
    views, threat, num_classes, votes = case
    batch = VoteBatch(votes, views, num_classes)
    exact = EXACT.margins(batch, threat) >= 0
    found = TWO.margins(batch, threat) >= 0
    assert not (exact & ~found).any()
    np.testing.assert_array_equal(
        TWO.predict(batch, threat)[exact], EXACT.predict(batch, threat)[exact]
    )


def test_it_certifies_more_than_exact():
    views = Ablation(kind="column", size=4, stride=1, height=32, width=32)
    batch = VoteBatch(clustered_votes(32, 5, 400), views, 5)
    exact = (EXACT.margins(batch, Threat.square(4)) >= 0).sum()
    assert (TWO.margins(batch, Threat.square(4)) >= 0).sum() > exact > 0


def test_the_fallback_is_the_plain_prediction_or_the_majority():
    """The fallback answers where there is no witness; -1 stands for no plain prediction."""
    scene = line(6, (0, 2), (2, 2), (4, 2))
    votes = every_vector(6, 3)
    pairs = Pairs.of(votes, largest(scene.touched()), 3)
    open_n = ~np.any([pairs.witnesses(y) for y in range(3)], axis=(0, 1))
    votes = votes[open_n]
    majority = outside(votes, frozenset(), 3).argmax(axis=1)
    assert set(majority.tolist()) == {0, 1, 2}
    threat = scene.threat()
    assert (TWO.margins(scene.batch(votes, 3), threat) < 0).all()
    np.testing.assert_array_equal(TWO.predict(scene.batch(votes, 3), threat), majority)
    plain = np.arange(len(votes)) % 4 - 1
    found = TWO.predict(scene.batch(votes, 3, plain=plain), threat)
    np.testing.assert_array_equal(found, np.where(plain < 0, majority, plain))
    assert {True, False} == set((found == majority).tolist())


def test_a_part_of_a_batch_has_its_own_answers():
    scene = LARGER[0]
    votes = nearly(len(scene.shown()), 4, 60, 5)
    votes[::3, 4] = -1
    plain = np.arange(60) % 4
    images = np.array([7, 3, 3, 59, 0, 30, 31])
    for rule in (TWO, RULES["one-location"], RULES["double-masking"]):
        part = scene.batch(votes, 4, plain=plain).take(images)
        fresh = scene.batch(votes[images], 4, plain=plain[images])
        for ask in (rule.predict, rule.margins):
            assert ask(part, scene.threat()).tolist() == ask(fresh, scene.threat()).tolist()


def lies_in(little: np.ndarray, large: np.ndarray) -> bool:
    """Tell whether all pixels of one patch are pixels of another."""
    return not (little & ~large).any()


@pytest.mark.parametrize("place", range(6))
def test_a_smaller_patch_on_larger_families(place):
    """Each small place within a large one that is a witness; and no attack there changes it."""
    scene = LARGER[place]
    g = replace(scene.g, patch_height=1, patch_width=1, area=None)
    small = replace(scene, g=g)
    views = len(scene.shown())
    votes = np.concatenate([nearly(views, 3, 50, 7), clustered_votes(views, 3, 30, place)])
    rule, batch = TwoLocation(scene.threat()), scene.batch(votes, 3)
    threat = small.threat()
    rule.check(batch.views, threat, 3)
    answers, certified = rule.predict(batch, threat), rule.margins(batch, threat) >= 0
    np.testing.assert_array_equal(answers, TWO.predict(batch, scene.threat()))
    assert (certified | (TWO.margins(batch, scene.threat()) < 0)).all(), "less for a smaller patch"

    large, sets = list(patch_masks(scene.g)), scene.touched()
    chosen = largest(sets)
    pairs = Pairs.of(votes, chosen, 3)
    witness = dict(zip(chosen, (pairs.phi_ssn == answers).all(axis=1), strict=True))
    held = np.all(
        [
            np.any(
                [
                    witness.get(touched, np.zeros(len(votes), bool))
                    for pixels, touched in zip(large, sets, strict=True)
                    if lies_in(little, pixels)
                ],
                axis=0,
            )
            for little in patch_masks(g)
        ],
        axis=0,
    )
    assert certified[held].all(), "as the reference has it, by places"
    for seed in range(20):
        after = scene.batch(attacked(votes, small.touched(), seed), 3)
        np.testing.assert_array_equal(rule.predict(after, threat)[certified], answers[certified])
