"""Detection: an answer or an alert, on larger families than can be tabulated."""

from dataclasses import replace

import numpy as np
import pytest

from models.views.ablations import Ablation
from models.views.family import Patch
from models.views.masks import Masks, Placement
from pipeline.certificates import RULES, Threat, VoteBatch
from pipeline.certificates.one_location import OneLocation
from pipeline.certificates.rule import ALERT
from tests.pipeline.certificates.bruteforce import Geometry
from tests.pipeline.certificates.cases import some_votes
from tests.pipeline.certificates.decisions_judge import (
    Scene,
    broken,
    every_vector,
    grid,
    largest,
    line,
    outside,
)

ONE, TWO = RULES["one-location"], RULES["two-location"]
SQUARES = [(y, x, 4, 4) for y in (0, 2, 4) for x in (0, 2, 4)]
SHAPES = ((1, 4), (2, 2), (4, 1))


def area_masks(length: int, area: int, most: int) -> Masks:
    """The union of the masks that cover each largest rectangle of an area."""
    sides = {"height": length, "width": length}
    threat = Threat(area=area)
    covers = threat.patches(Ablation(kind="block", size=1, stride=1, **sides))
    found: dict = {}
    for patch in covers:
        rows, columns = (Placement.covering(length, side, most) for side in patch)
        placed = Masks.placed(**sides, placements=[(rows, columns)], pairs=False, covers=[patch])
        found |= dict.fromkeys(placed.masks)
    return Masks(**sides, masks=tuple(found), pairs=True, covers=covers)


def attacked(votes: np.ndarray, touched: frozenset[int], rng: np.random.Generator) -> np.ndarray:
    """Votes of which those of a set are all for one class an image, or for any."""
    after, chosen = votes.copy(), sorted(touched)
    one = rng.integers(4, size=(len(votes), 1))
    after[:, chosen] = np.where(
        rng.random((len(votes), 1)) < 0.5, one, rng.integers(4, size=(len(votes), len(chosen)))
    )
    return after


def votes_of(views: int, seed: int) -> np.ndarray:
    """Votes of which few dissent, or none."""
    rng = np.random.default_rng(seed)
    dissents = rng.random((60, views)) < rng.choice([0, 0.01, 0.1, 0.6], (60, 1))
    return np.where(dissents, rng.integers(4, size=(60, views)), rng.integers(4, size=(60, 1)))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "scene",
    [
        grid(8, 8, *SQUARES, patch=(2, 2)),
        Scene(Geometry("column", 2, 1, 1, 20, 1, 2)),
        Scene(Geometry("row", 3, 2, 19, 1, 2, 1)),
        Scene(Geometry("block", 2, 2, 8, 8, 1, 2)),
    ],
    ids=["masks", "columns", "rows", "blocks"],
)
def test_no_attack_gets_another_answer_without_an_alert(scene, count):
    scene = replace(scene, g=replace(scene.g, count=count))
    places = scene.touched()
    votes = votes_of(len(scene.shown()), count)
    batch, threat = scene.batch(votes, 4), scene.threat()
    ONE.check(batch.views, threat, 4)
    answers = ONE.predict(batch, threat)
    np.testing.assert_array_equal(ONE.margins(batch, threat) >= 0, answers != ALERT)
    silent = answers != ALERT
    assert 0 < silent.sum() < len(votes)
    rng = np.random.default_rng(0)
    for _ in range(60):
        sets = [places[rng.integers(len(places))] for _ in range(count)]
        after = scene.batch(attacked(votes, frozenset().union(*sets), rng), 4)
        found = ONE.predict(after, threat)
        assert ((found == answers) | (found == ALERT))[silent].all()


def test_the_answer_of_two_patches_is_the_recovery_of_one():
    """Both need every two locations to agree, so they certify the same of what is answered."""
    scene = grid(8, 8, *SQUARES, patch=(2, 2))
    votes = votes_of(45, 9)
    batch = scene.batch(votes, 4)
    recovery = TWO.margins(batch, scene.threat()) >= 0
    two = replace(scene, g=replace(scene.g, count=2)).threat()
    np.testing.assert_array_equal(ONE.margins(batch, two) >= 0, recovery)
    np.testing.assert_array_equal(
        ONE.predict(batch, two)[recovery], TWO.predict(batch, scene.threat())[recovery]
    )
    assert 0 < recovery.sum() < len(votes)


@pytest.mark.parametrize("count", [1, 2])
def test_every_answer_on_tiny_pairs(count):
    """Two patches of every kind of placement, every vector of labels and every rewriting."""
    answered = 0
    for masks, patch in (
        (((0, 2), (2, 2), (4, 2)), 1),
        (((0, 4), (2, 4), (4, 4)), 2),
        (((0, 3), (1, 4), (3, 3)), 1),
    ):
        scene = line(8 if patch == 2 else 6, *masks, patch=patch)
        one = scene.touched()
        sets = set(one) if count == 1 else {a | b for a in one for b in one}
        votes = every_vector(6, 3)
        threat = replace(scene.threat(), count=count)
        batch = scene.batch(votes, 3)
        answers = ONE.predict(batch, threat)
        assert broken(answers, answers != ALERT, sets, 6, ALERT) == 0
        answered += int((answers != ALERT).sum())
    assert answered


def test_a_smaller_threat_is_answered_by_the_decision_for_the_larger():
    scene = Scene(Geometry("column", 1, 1, 1, 7, 1, 2))
    votes = every_vector(7, 2)
    little = set(replace(scene, g=replace(scene.g, patch_width=1)).touched())
    rule, batch = OneLocation(scene.threat()), scene.batch(votes, 2)
    small = Threat(Patch(1, 1))
    rule.check(batch.views, small, 2)
    answers = rule.predict(batch, small)
    np.testing.assert_array_equal(answers, ONE.predict(batch, scene.threat()))
    assert broken(answers, answers != ALERT, little, 7, ALERT) == 0
    assert (ONE.predict(batch, small) != answers).any(), "another decision from the same labels"


def test_areas_are_recovered_from_and_detected_by_unions_of_masks():
    views, threat = area_masks(8, 4, 2), Threat(area=4)
    geometry = Geometry("mask", 0, 0, 8, 8, 0, 0, area=4)
    scene = Scene(geometry, tuple(tuple(mask) for mask in views.masks), pairs=True)
    places = largest(scene.touched())
    every_place = scene.touched()
    votes = votes_of(len(views), 3)
    batch, rng = VoteBatch(votes, views, 4), np.random.default_rng(1)
    for rule in (ONE, TWO, RULES["double-masking"]):
        rule.check(views, threat, 4)
        answers, certified = rule.predict(batch, threat), rule.margins(batch, threat) >= 0
        assert 0 < certified.sum() < len(votes)
        for touched in [every_place[i] for i in rng.permutation(len(every_place))[:60]]:
            after = VoteBatch(attacked(votes, touched, rng), views, 4)
            found = rule.predict(after, threat)
            stays = (found == answers) | (rule.alerts & (found == ALERT))
            assert stays[certified].all(), rule.name
    # All cross pairs are needed: a location of one shape is hidden with one of another.
    alone = views.one_mask_views
    assert not alone.hides_two
    assert views.hides_two
    phi = [outside(votes, touched, 4).argmax(axis=1) for touched in places]
    agree = (np.array(phi) == phi[0]).all(axis=0)
    assert agree[TWO.margins(batch, threat) >= 0].all()
    for shape in SHAPES:
        assert (TWO.margins(batch, Threat(Patch(*shape))) >= 0).sum() >= 1


def test_the_margin_is_the_least_lead():
    views = Ablation(kind="column", size=1, stride=1, height=1, width=5)
    votes = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 1]])
    batch, threat = VoteBatch(votes, views, 2), Threat(Patch(1, 1))
    # Of one column each: 4 - 0 - 1 where all agree, 3 - 1 - 1, 2 - 2 - 1 and 2 - 2.
    assert ONE.margins(batch, threat).tolist() == [3, 1, -1, 0]
    assert ONE.predict(batch, threat).tolist() == [1, 1, ALERT, 0]


def test_more_classes_change_nothing():
    views = Ablation(kind="column", size=3, stride=2, height=4, width=24)
    votes = some_votes(12, 4, limit=200)
    few, many = (VoteBatch(votes, views, classes) for classes in (4, 1000))
    for rule in (ONE, TWO):
        for ask in (rule.predict, rule.margins):
            np.testing.assert_array_equal(
                ask(few, Threat(Patch(2, 2))), ask(many, Threat(Patch(2, 2)))
            )
