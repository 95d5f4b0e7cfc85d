"""The judge of randomized smoothing: binomials summed term by term, every outcome of the draws.

Each judgement takes the module under test (the real one or a mutant) and counts its faults.
"""

from collections.abc import Callable
from itertools import combinations_with_replacement, product
from math import comb
from types import ModuleType

import numpy as np

from models.views.family import Patch
from tests.pipeline.certificates.bruteforce import (
    Geometry,
    can_change,
    class_counts,
    predictions,
    touched_sets,
)
from tests.pipeline.certificates.cases import some_votes

LINE = {"kind": "column", "size": 1, "stride": 1, "height": 1, "width": 12}


def at_least(votes: int, draws: int, share: float) -> float:
    """Probability of that many votes or more among the draws."""
    terms = range(votes, draws + 1)
    return sum(comb(draws, k) * share**k * (1 - share) ** (draws - k) for k in terms)


def bounds(module: ModuleType) -> int:
    """Bounds that are not the Clopper-Pearson ones of error alpha / C, halved between two sides."""
    wrong, step = 0, 1e-8
    for (winner, rival, draws), num_classes, confidence in product(
        [(1, 0, 1), (3, 2, 5), (5, 0, 5), (17, 17, 40), (30, 6, 40)], (2, 3, 10), (0.6, 0.999)
    ):
        others = draws - winner - rival
        if others and num_classes == 2:
            continue
        votes = np.array([[0] * winner + [1] * rival + [2] * others])
        line = module.Ablation(**LINE)
        found = module.randomized_certificates(votes, line, Patch(1, 1), num_classes, confidence)
        tail = (1 - confidence) / (2 * num_classes)
        lower, upper = found.lower_n[0], found.rival_upper_n[0]
        # Just right: the bound does what it must, and one a trifle nearer does not.
        wrong += at_least(winner, draws, lower) > tail
        wrong += at_least(winner, draws, lower + step) < tail
        if rival < draws:
            wrong += 1 - at_least(rival + 1, draws, upper) > tail
            wrong += 1 - at_least(rival + 1, draws, upper - step) < tail
    return wrong


def coverage(module: ModuleType) -> int:
    """Ideal classifiers for which some bound of an image is wrong more often than alpha.

    Exact: the probability of every outcome of the draws, for all shares in twelfths.
    """
    wrong = 0
    for num_classes, draws, alpha in [(2, 30, 0.3), (3, 20, 0.2), (3, 9, 0.5), (4, 10, 0.3)]:
        outcomes = list(combinations_with_replacement(range(num_classes), draws))
        votes = np.array(outcomes)
        counts = class_counts(votes, num_classes)
        ways = [np.prod([comb(sum(n[: j + 1]), n[j]) for j in range(len(n))]) for n in counts]
        line = module.Ablation(**LINE)
        found = module.randomized_certificates(votes, line, Patch(1, 1), num_classes, 1 - alpha)
        chosen = predictions(votes, num_classes)[:, None] == np.arange(num_classes)
        for dealt in combinations_with_replacement(range(num_classes), 12):
            share = np.bincount(dealt, minlength=num_classes) / 12
            probability = ways * (share**counts).prod(axis=1)
            assert np.isclose(probability.sum(), 1)
            missed = (found.lower_n > chosen @ share) | (
                found.rival_upper_n < np.where(chosen, -1, share).max(axis=1)
            )
            wrong += probability[missed].sum() > alpha
    return wrong


def ideal(module: ModuleType) -> int:
    """Images on which the certificate does not say what the shares of all positions say.

    Each position is drawn so often that the bounds are as good as the shares: then certified iff
    n_c - n_j > 2 Delta among the positions, and no certified image can be changed by any
    reassignment of the votes that a patch touches.
    """
    wrong, often = 0, 300
    for g, num_classes in [
        (Geometry("column", 1, 1, 1, 8, 1, 2), 3),
        (Geometry("row", 2, 1, 9, 1, 1, 1), 2),
        (Geometry("block", 1, 1, 3, 4, 1, 2), 3),
    ]:
        sets = touched_sets(g)
        views = g.height * g.width
        votes = some_votes(views, num_classes, limit=120)
        drawn = np.repeat(votes, often, axis=1)
        patch = Patch(g.patch_height, g.patch_width)
        found = module.randomized_certificates(
            drawn, module.Ablation(**g.ablation), patch, num_classes
        )
        counts = np.sort(class_counts(votes, num_classes), axis=1)
        expected = counts[:, -1] - counts[:, -2] > 2 * max(map(len, sets))
        assert set(expected.tolist()) == {True, False}
        wrong += int((found.certified != expected).sum())
        wrong += int((found.certified & can_change(votes, sets, num_classes)).sum())
        wrong += int((found.certified != (found.margins_n >= 0)).sum())
        gap = found.lower_n - found.rival_upper_n
        wrong += int((found.certified != (gap > found.threshold)).sum())
    return wrong


JUDGEMENTS: dict[str, Callable[[ModuleType], int]] = {
    "bounds": bounds,
    "coverage": coverage,
    "ideal": ideal,
}
