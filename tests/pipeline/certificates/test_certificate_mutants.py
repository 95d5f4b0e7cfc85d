"""Brute force must tell every mutant of the proof code (``mutants.MUTANTS``) from the original."""

from dataclasses import replace

import numpy as np
import pytest

from tests.pipeline.certificates.agreement import ATTACKERS, threat_of
from tests.pipeline.certificates.bruteforce import (
    Geometry,
    can_change,
    can_evict,
    class_counts,
    exact_by_definition,
    predictions,
    touched_sets,
    view_masks,
    worst_leads,
)
from tests.pipeline.certificates.cases import clustered_votes, some_sets, some_votes
from tests.pipeline.certificates.mutants import (
    ABLATIONS,
    BATCH,
    DETECTION,
    LARGEST,
    MUTANTS,
    RANDOMIZED_RULE,
    RULES,
    SUBSETS,
    THREATS,
    TOP_K,
    load,
)
from tests.pipeline.certificates.mutants_randomized import MUTANTS as RANDOMIZED_MUTANTS
from tests.pipeline.certificates.randomized_judge import JUDGEMENTS

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
    (Geometry("block", 1, 2, 7, 4, 0, 0, area=5), 3),
    (Geometry("column", 1, 1, 2, 9, 0, 0, area=2), 3),
    (Geometry("column", 1, 1, 1, 11, 1, 1, count=2), 3),
    (Geometry("row", 2, 2, 17, 1, 2, 1, count=2), 3),
    (Geometry("column", 2, 1, 1, 14, 1, 1, random=9, seed=2, count=2), 3),
]
# Too many outcomes to try: held against the formula of the exact rule, whose sign the others prove.
LARGE_CASES = [
    (Geometry("column", 2, 1, 1, 13, 1, 2, count=2), 6),
    (Geometry("row", 3, 2, 31, 1, 4, 1, count=2), 4),
    (Geometry("column", 1, 1, 1, 24, 1, 2, random=15, seed=4, count=2), 6),
    (Geometry("column", 3, 1, 1, 20, 1, 3, random=8, seed=5, count=2), 6),
    (Geometry("block", 2, 1, 10, 8, 0, 0, random=12, seed=1, area=4), 5),
    (Geometry("block", 2, 2, 10, 8, 0, 0, area=6), 5),
    (Geometry("block", 3, 4, 13, 9, 2, 4), 5),
]
# With at most so many votes an ablation.
SET_CASES = [
    (Geometry("column", 1, 1, 1, 8, 1, 1), 3, 2),
    (Geometry("row", 2, 2, 10, 1, 1, 1), 4, 3),
    (Geometry("block", 1, 2, 4, 5, 1, 1), 3, 2),
    (Geometry("block", 1, 1, 3, 5, 1, 1, random=7, seed=1), 3, 2),
]
# For all sizes at once: an image as high as it is wide.
SQUARE_CASES = [
    (Geometry("column", 1, 1, 9, 9, 1, 1), 3),
    (Geometry("row", 2, 2, 11, 10, 1, 1), 3),
    (Geometry("block", 1, 2, 6, 7, 1, 1), 3),
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
            else some_votes(views, num_classes, limit=800)
        )
        sets = touched_sets(g)
        judgement = {"prediction": predictions(votes, num_classes)}
        for name, attackers in ATTACKERS.items():
            judgement[name] = ~can_change(votes, attackers(g), num_classes)
        if g.count == 1:
            some = votes[:150]
            judgement["detection"] = np.stack(worst_leads(some, sets, num_classes))
            for k in range(1, num_classes):
                kept = (predictions(votes, num_classes) + k) % num_classes
                judgement["top_k", k] = ~can_evict(some, sets, num_classes, kept[:150], k)
        found.append((g, votes, num_classes, judgement))
    return found


@pytest.fixture(scope="module")
def large_cases():
    """Geometry, votes, classes, and the exact margins as the formula reads."""
    found = []
    for g, num_classes in LARGE_CASES:
        views = len(view_masks(g))
        votes = np.concatenate(
            [some_votes(views, num_classes, limit=200), clustered_votes(views, num_classes, 200)]
        )
        found.append(
            (g, votes, num_classes, exact_by_definition(votes, touched_sets(g), num_classes))
        )
    return found


@pytest.fixture(scope="module")
def square_cases():
    """Geometry, votes, classes, and the largest side that brute force certifies, by rule."""
    found = []
    for g, num_classes in SQUARE_CASES:
        votes = some_votes(len(view_masks(g)), num_classes, limit=120)
        judgement = {}
        for name, attackers in ATTACKERS.items():
            sides = np.zeros(len(votes), int)
            alive = np.ones(len(votes), bool)
            for side in range(1, min(g.height, g.width) + 1):
                patched = replace(g, patch_height=side, patch_width=side)
                if alive.any():
                    alive[alive] = ~can_change(votes[alive], attackers(patched), num_classes)
                sides[alive] = side
            judgement[name] = sides
        found.append((g, votes, num_classes, judgement))
    return found


def disagreements(question, modules, cases, large_cases, square_cases) -> int:
    """Images on which these modules contradict brute force, counted up to the first such case."""
    if question in JUDGEMENTS:
        return JUDGEMENTS[question](modules[RANDOMIZED_RULE])
    if question == "largest":
        return _wrong_sides(modules, square_cases)
    if question == "coarser":
        return _wrong_strides(modules, cases)
    for g, votes, num_classes, judgement in cases:
        wrong = _wrong_answers(question, modules, g, votes, num_classes, judgement)
        if wrong:
            return wrong
    for g, votes, num_classes, expected in large_cases if question == "exact" else ():
        ablation, threat = _setting(modules, g)
        found = modules[RULES].margins("exact", votes, ablation, threat, num_classes)
        if (found != expected).any():
            return int((found != expected).sum())
    return 0


def _setting(modules, g: Geometry):
    threat = threat_of(g)
    return (
        modules[ABLATIONS].Ablation(**g.ablation),
        modules[THREATS].Threat(threat.patch, threat.area, threat.count),
    )


def _wrong_answers(question, modules, g, votes, num_classes, judgement) -> int:
    ablation, threat = _setting(modules, g)
    if question == "prediction":
        answer = modules[BATCH].smoothed_predictions(votes, num_classes)
        return int((answer != judgement["prediction"]).sum())
    if question in ATTACKERS:
        margins = modules[RULES].margins(question, votes, ablation, threat, num_classes)
        return int(((margins >= 0) != judgement[question]).sum())
    if g.count > 1:
        return 0  # detection and top-k are about one patch
    wrong, some = 0, votes[:150]
    if question == "detection":
        leads = modules[DETECTION].detection_leads(some, ablation, threat, num_classes)
        counts = np.sort(class_counts(some, num_classes), axis=1)
        wrong += (np.stack(leads[1:]) != judgement["detection"]).sum()
        wrong += (leads.lead_n != counts[:, -1] - counts[:, -2]).sum()
    for k in range(1, num_classes) if question == "top_k" else ():
        kept = (judgement["prediction"][:150] + k) % num_classes
        margins = modules[TOP_K].top_k_margins(
            some, ablation, threat, num_classes, k=k, classes_n=kept
        )
        wrong += ((margins >= 0) != judgement["top_k", k]).sum()
    return int(wrong)


def _wrong_sides(modules, square_cases) -> int:
    for g, votes, num_classes, judgement in square_cases:
        ablation = modules[ABLATIONS].Ablation(**g.ablation)
        for rule, sides in judgement.items():
            found = modules[LARGEST].largest_certified(votes, ablation, num_classes, rule)
            if (found != sides).any():
                return int((found != sides).sum())
    return 0


def _wrong_strides(modules, cases) -> int:
    """Votes or views that are not those which show the same pixels."""
    module, wrong = modules[SUBSETS], 0
    for g, votes, *_ in cases:
        ablation = modules[ABLATIONS].Ablation(**g.ablation)
        masks = view_masks(g)
        numbers = np.arange(len(masks))
        for stride in range(1, g.size + 3) if g.random is None else ():
            shown = view_masks(replace(g, stride=stride))
            matches = (shown[:, None] == masks[None]).all(axis=(2, 3))
            try:
                found, fewer = module.coarser(votes, ablation, stride)
            except ValueError:
                wrong += int(matches.any(axis=1).all())
                continue
            wrong += int(not matches.any(axis=1).all())
            wrong += int((found != votes[:, matches.argmax(axis=1)]).any())
            wrong += int(fewer != modules[ABLATIONS].Ablation(**replace(g, stride=stride).ablation))
        chosen = numbers[numbers % 3 > 0]
        if len(chosen):
            found, family = module.subset(votes, ablation, chosen[::-1])
            wrong += int((found != votes[:, chosen]).any())
            wrong += sum((family.visible(i) != masks[v]).any() for i, v in enumerate(chosen))
    return int(wrong)


QUESTIONS = ["prediction", *ATTACKERS, "top_k", "detection", "largest", "coarser", *JUDGEMENTS]


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_original_survives(question, cases, large_cases, square_cases):
    assert disagreements(question, load(None), cases, large_cases, square_cases) == 0


@pytest.mark.parametrize("rule", ATTACKERS)
def test_the_cases_hold_both_answers(rule, cases):
    for g, *_, judgement in cases:
        assert set(judgement[rule].tolist()) == {True, False}, g


@pytest.mark.parametrize("rule", ATTACKERS)
def test_the_squares_hold_many_sizes(rule, square_cases):
    for g, *_, judgement in square_cases:
        assert len(set(judgement[rule].tolist())) >= 3, g


@pytest.mark.parametrize(
    ("mutant", "question"),
    [
        pytest.param(mutant, question, id=f"{question}: {mutant.what}")
        for mutant in MUTANTS + RANDOMIZED_MUTANTS
        for question in mutant.caught_by
    ],
)
def test_every_mutant_is_caught(mutant, question, cases, large_cases, square_cases):
    assert disagreements(question, load(mutant), cases, large_cases, square_cases) > 0
