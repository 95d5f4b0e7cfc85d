"""Brute force must tell every mutant of the proof code (``mutants.MUTANTS``) from the original."""

import pytest
from bruteforce import Geometry, any_views, can_change, predictions, touched_sets, view_masks
from cases import some_sets, some_votes
from mutants import ABLATION, COUNTS, EXACT_RULE, MUTANTS, RANDOMIZED_RULE, UNIFORM_RULE, load
from mutants_randomized import MUTANTS as RANDOMIZED_MUTANTS
from randomized_judge import JUDGEMENTS

CASES = [
    (Geometry("column", 1, 1, 1, 4, 1, 2), 3),
    (Geometry("column", 1, 1, 1, 6, 1, 2), 3),
    (Geometry("column", 2, 2, 1, 15, 1, 1), 3),
    (Geometry("column", 1, 3, 1, 13, 1, 2), 3),
    (Geometry("row", 1, 1, 6, 2, 2, 1), 3),
    (Geometry("row", 1, 1, 8, 2, 1, 2), 4),
    (Geometry("row", 2, 2, 13, 1, 2, 1), 3),
    (Geometry("block", 1, 2, 4, 9, 1, 2), 3),
    (Geometry("block", 2, 2, 5, 6, 1, 2), 3),
    (Geometry("column", 2, 1, 1, 16, 1, 2, random=12, seed=5), 3),
    (Geometry("block", 1, 1, 4, 6, 1, 2, random=8, seed=6), 3),
]
# With at most so many votes an ablation.
SET_CASES = [
    (Geometry("column", 1, 1, 1, 8, 1, 1), 3, 2),
    (Geometry("row", 2, 2, 10, 1, 1, 1), 4, 3),
    (Geometry("block", 1, 2, 4, 5, 1, 1), 3, 2),
    (Geometry("block", 1, 1, 3, 5, 1, 1, random=7, seed=1), 3, 2),
]


@pytest.fixture(scope="module")
def cases():
    """Geometry, votes, classes, and the judgement of brute force on all that is computed."""
    found = []
    for g, num_classes, *most in [*CASES, *SET_CASES]:
        views = len(view_masks(g))
        votes = (
            some_sets(views, num_classes, *most, limit=300)
            if most
            else some_votes(views, num_classes, limit=1000)
        )
        sets = touched_sets(g)
        worst = any_views(votes.shape[1], max(map(len, sets)))
        judgement = {
            "prediction": predictions(votes, num_classes),
            "exact": ~can_change(votes, sets, num_classes),
            "uniform": ~can_change(votes, worst, num_classes),
        }
        found.append((g, votes, num_classes, judgement))
    return found


def disagreements(question, modules, cases) -> int:
    """Number of images on which these modules contradict brute force."""
    if question in JUDGEMENTS:
        return JUDGEMENTS[question](modules[RANDOMIZED_RULE])
    geometry, wrong = modules[ABLATION], 0
    rules = {
        "exact": modules[EXACT_RULE].exact_margins,
        "uniform": modules[UNIFORM_RULE].uniform_margins,
    }
    for g, votes, num_classes, judgement in cases:
        if question == "prediction":
            answer = modules[COUNTS].smoothed_predictions(votes, num_classes)
        else:
            ablation = geometry.Ablation(**g.ablation)
            patch = geometry.Patch(g.patch_height, g.patch_width)
            answer = rules[question](votes, ablation, patch, num_classes) >= 0
        wrong += int((answer != judgement[question]).sum())
    return wrong


@pytest.mark.parametrize("question", ["prediction", "uniform", "exact", *JUDGEMENTS])
def test_the_original_survives(question, cases):
    assert disagreements(question, load(None), cases) == 0


@pytest.mark.parametrize("rule", ["uniform", "exact"])
def test_the_cases_hold_both_answers(rule, cases):
    for g, *_, judgement in cases:
        assert set(judgement[rule].tolist()) == {True, False}, g


@pytest.mark.parametrize(
    ("mutant", "question"),
    [
        pytest.param(mutant, question, id=f"{question}: {mutant.what}")
        for mutant in MUTANTS + RANDOMIZED_MUTANTS
        for question in mutant.caught_by
    ],
)
def test_every_mutant_is_caught(mutant, question, cases):
    assert disagreements(question, load(mutant), cases) > 0
