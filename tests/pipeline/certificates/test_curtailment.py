"""Unfinished votes: what is said of all completions holds in each, and in no fewer cases."""

import numpy as np
import pytest
from agreement import threat_of
from bruteforce import Geometry, view_masks
from completions import completions, every_unfinished, unfinished
from hypothesis import given, settings
from hypothesis import strategies as st
from mutants import ABLATION, CURTAILMENT, PARTIAL, THREATS, load
from mutants_curtailment import MUTANTS

from models.ablation import Ablation
from models.order import looks, spread
from pipeline.certificates.curtailment import Curtailment, bracket, settled
from pipeline.certificates.partial import partial_polls
from pipeline.certificates.rules import RULES, margins
from pipeline.certificates.threats import Threat

BOTH = ("exact", "uniform")
# Geometry, classes, and the most votes missing.
CASES = [
    (Geometry("column", 1, 1, 1, 6, 1, 1), 3, 4),
    (Geometry("column", 2, 1, 1, 9, 1, 1), 3, 4),
    (Geometry("column", 2, 3, 1, 19, 1, 2), 3, 3),
    (Geometry("column", 1, 1, 1, 12, 1, 3), 2, 4),
    (Geometry("row", 2, 1, 11, 1, 1, 1), 2, 6),
    (Geometry("row", 1, 2, 17, 2, 2, 1), 4, 3),
    (Geometry("block", 1, 2, 5, 6, 1, 1), 3, 4),
    (Geometry("block", 2, 2, 5, 7, 1, 2), 3, 4),
    (Geometry("column", 2, 1, 1, 16, 1, 1, random=9, seed=5), 3, 4),
    (Geometry("block", 1, 2, 7, 5, 0, 0, area=2), 3, 4),
    (Geometry("column", 1, 1, 1, 11, 1, 1, count=2), 3, 4),
]


def judged(g, votes, num_classes):
    return votes, completions(votes, g, num_classes)


@pytest.fixture(scope="module")
def cases():
    found = []
    for g, num_classes, most in CASES:
        votes = unfinished(g, len(view_masks(g)), num_classes, 150, most)
        found.append((g, num_classes, *judged(g, votes, num_classes)))
    # Nothing left out: five views, three classes, up to four missing.
    g = Geometry("column", 1, 1, 1, 5, 1, 1)
    found.append((g, 3, *judged(g, every_unfinished(5, 3, 4), 3)))
    return found


def disagreements(question, modules, cases) -> int:
    for g, num_classes, votes, judge in cases:
        given_threat = threat_of(g)
        ablation = modules[ABLATION].Ablation(**g.ablation)
        threat = modules[THREATS].Threat(given_threat.patch, given_threat.area, given_threat.count)
        wrong = 0
        if question == "ends":
            ((_, poll),) = modules[PARTIAL].partial_polls(votes, ablation, num_classes)
            held = judge.foregone_n
            for rule in BOTH:
                ends = modules[CURTAILMENT].bracket(poll, threat, rule)
                wrong += (ends.lower_n != judge.lower[rule])[held].sum()
                wrong += (ends.upper_n != judge.upper[rule])[held].sum()
            wrong += (poll.predictions_n != judge.predictions_n)[held].sum()
        else:
            smaller = modules[THREATS].Threat.square(1)
            for rules in (BOTH, ("exact",), ("uniform",)):
                of_one, of_other, of_both = (
                    modules[CURTAILMENT].settled(
                        votes, ablation, num_classes, modules[CURTAILMENT].Curtailment(asked, rules)
                    )
                    for asked in ((threat,), (smaller,), (threat, smaller))
                )
                wrong += (of_one != judge.decided(rules)).sum()
                wrong += (of_both != (of_one & of_other)).sum()
        if wrong:
            return int(wrong)
    return 0


@pytest.mark.parametrize("question", ["ends", "stops"])
def test_the_original_survives(question, cases):
    assert disagreements(question, load(None), cases) == 0


@pytest.mark.parametrize(
    ("mutant", "question"),
    [
        pytest.param(mutant, question, id=f"{question}: {mutant.what}")
        for mutant in MUTANTS
        for question in mutant.caught_by
    ],
)
def test_every_mutant_is_caught(mutant, question, cases):
    assert disagreements(question, load(mutant), cases) > 0


def test_the_cases_hold_all_answers(cases):
    """Decided both ways and undecided, with votes missing, by each rule."""
    for rule in BOTH:
        kinds = set()
        for *_, votes, judge in cases:
            some = (votes < 0).any(axis=1) & judge.foregone_n
            kinds |= set(((judge.lower[rule] >= 0) + 2 * (judge.upper[rule] < 0))[some].tolist())
        assert kinds == {0, 1, 2}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_completion_contradicts(data):
    """On larger cases: random completions keep to the bracket and to what was settled."""
    kind = data.draw(st.sampled_from(["column", "row", "block"]))
    side = data.draw(st.integers(6, 24 if kind != "block" else 9))
    size, stride = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    ablation = Ablation(kind=kind, size=size, stride=stride, height=side, width=side)
    threat = data.draw(
        st.sampled_from([Threat.square(1), Threat.square(2), Threat.parse("1x3"), Threat(area=4)])
    )
    num_classes = data.draw(st.integers(2, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    share, images = rng.random((20, 1)), (20, len(ablation))
    votes = np.where(rng.random(images) < share, rng.integers(num_classes, size=images), 1)
    votes[rng.random(images) < 0.5 * rng.random((20, 1))] = -1
    asked = Curtailment((threat,), BOTH)
    stops = settled(votes, ablation, num_classes, asked)
    ((_, poll),) = partial_polls(votes, ablation, num_classes)
    ends = {rule: bracket(poll, threat, rule) for rule in BOTH}
    for strongest in range(num_classes):
        filling = np.where(rng.random(images) < 0.8, strongest, rng.integers(num_classes))
        finished = np.where(votes < 0, filling, votes)
        counts = np.stack([(finished == c).sum(axis=1) for c in range(num_classes)], axis=1)
        held = poll.foregone_n
        assert (counts.argmax(axis=1) == poll.predictions_n)[held].all()
        for rule in BOTH:
            found = margins(rule, finished, ablation, threat, num_classes)
            assert (ends[rule].lower_n <= found)[held].all()
            assert (found <= ends[rule].upper_n)[held].all()
            assert ((ends[rule].lower_n >= 0) == (found >= 0))[stops].all()


def test_all_votes_are_their_own_only_completion():
    ablation = Ablation(kind="column", size=4, stride=1, height=32, width=32)
    votes = np.random.default_rng(0).integers(3, size=(50, 32))
    votes[:, :24] = 1
    ((_, poll),) = partial_polls(votes, ablation, 10)
    for rule in BOTH:
        for end in bracket(poll, Threat.square(2), rule):
            expected = margins(rule, votes, ablation, Threat.square(2), 10)
            np.testing.assert_array_equal(end, expected)
    assert settled(votes, ablation, 10, Curtailment((Threat.square(2),), BOTH)).all()


def test_what_is_asked_has_one_text():
    first = Curtailment((Threat.parse("4"), Threat.parse("2x2"), Threat.parse("4x4")), BOTH[::-1])
    assert first == Curtailment((Threat.square(2), Threat.square(4)), BOTH)
    assert Curtailment.from_dict(first.to_dict()) == first
    assert str(first) == "patches of 2x2, 4x4 px by the rules exact and uniform"


def test_rules_that_need_every_vote_are_refused():
    assert RULES["randomized"].least is None
    with pytest.raises(ValueError, match="does not say what missing votes can change"):
        Curtailment((Threat.square(2),), ("randomized",))


@pytest.mark.parametrize(
    "ablation",
    [
        Ablation(kind="column", size=4, stride=1, height=32, width=32),
        Ablation(kind="row", size=19, stride=3, height=224, width=224),
        Ablation(kind="block", size=12, stride=3, height=32, width=47),
        Ablation(kind="block", size=12, stride=1, height=32, width=32, random=77, seed=1),
    ],
    ids=lambda ablation: f"{ablation.kind}-{len(ablation)}",
)
def test_the_order_is_one_and_spreads(ablation):
    order = spread(ablation)
    assert sorted(order) == list(range(len(ablation)))
    numbers = looks(len(ablation))
    assert numbers[0] * 2 >= len(ablation)
    assert numbers[-1] == len(ablation)
    assert (np.diff(numbers) > 0).all()
    # An eighth of the views has some in every quarter of the image.
    first = ablation.positions[order[: max(8, len(ablation) // 8)]]
    quarters = first * 2 // [ablation.height, ablation.width]
    assert len(np.unique(quarters, axis=0)) == (4 if ablation.kind == "block" else 2)


def test_the_order_of_a_line_halves_it():
    ablation = Ablation(kind="column", size=2, stride=1, height=8, width=8)
    assert spread(ablation).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
