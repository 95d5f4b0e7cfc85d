"""The judge of unfinished votes: every completion of them, judged as finished votes are."""

from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from agreement import threat_of
from bruteforce import Geometry, exact_by_definition, most_views, predictions, touched_sets
from cases import some_votes

MISSING = -1


class Completions(NamedTuple):
    """What all completions of some images' votes have in common.

    Attributes:
        foregone_n: Whether all of them predict one class.
        predictions_n: The class that the first of them predicts.
        lower: Least margin of all completions, by rule; int (N,).
        upper: Largest, by rule; int (N,).
    """

    foregone_n: np.ndarray
    predictions_n: np.ndarray
    lower: dict[str, np.ndarray]
    upper: dict[str, np.ndarray]

    def decided(self, rules) -> np.ndarray:
        """Whether no completion changes the prediction or a certificate; bool (N,)."""
        return self.foregone_n & np.all(
            [(self.lower[rule] >= 0) | (self.upper[rule] < 0) for rule in rules], axis=0
        )


def margins_by_definition(votes, g: Geometry, num_classes) -> dict[str, np.ndarray]:
    """Margins of finished votes, as the formulas read."""
    predicted = predictions(votes, num_classes)
    counts = np.stack([(votes == c).sum(axis=1) for c in range(num_classes)], axis=1)
    own = np.take_along_axis(counts, predicted[:, None], axis=1)
    classes = np.arange(num_classes)
    leads = own - counts - (classes < predicted[:, None])
    leads[classes == predicted[:, None]] = 10**6
    return {
        "exact": exact_by_definition(votes, touched_sets(g), num_classes),
        "uniform": leads.min(axis=1) - 2 * most_views(g),
    }


def completions(votes, g: Geometry, num_classes) -> Completions:
    """Try every class for every missing vote of every image."""
    every, owners = [], []
    for image, votes_v in enumerate(votes):
        missing = np.flatnonzero(votes_v == MISSING)
        for classes in product(range(num_classes), repeat=len(missing)):
            finished = votes_v.copy()
            finished[missing] = classes
            every.append(finished)
            owners.append(image)
    finished, owner = np.array(every), np.array(owners)
    first = np.flatnonzero(np.append(True, owner[1:] != owner[:-1]))
    predicted = predictions(finished, num_classes)
    margins = margins_by_definition(finished, g, num_classes)
    return Completions(
        np.minimum.reduceat(predicted, first) == np.maximum.reduceat(predicted, first),
        predicted[first],
        {rule: np.minimum.reduceat(of_all, first) for rule, of_all in margins.items()},
        {rule: np.maximum.reduceat(of_all, first) for rule, of_all in margins.items()},
    )


def unfinished(g: Geometry, views, num_classes, images, most_missing, seed=0) -> np.ndarray:
    """Votes near the edge of a decision, up to so many of them missing; int (N, V)."""
    votes = some_votes(views, num_classes, 3 * images, seed)
    rng = np.random.default_rng([seed, views, num_classes, len(touched_sets(g))])
    votes = votes[rng.integers(len(votes), size=images)]
    missing = rng.integers(0, most_missing + 1, size=images)
    order = rng.random(votes.shape).argsort(axis=1)
    return np.where(order < missing[:, None], MISSING, votes)


def every_unfinished(views, num_classes, most_missing) -> np.ndarray:
    """All votes of so many views, with all choices of missing ones; int (N, V)."""
    found = []
    for size in range(most_missing + 1):
        for missing in combinations(range(views), size):
            for votes in product(range(num_classes), repeat=views - size):
                one = np.full(views, MISSING)
                one[[v for v in range(views) if v not in missing]] = votes
                found.append(one)
    return np.array(found)


__all__ = ["MISSING", "completions", "every_unfinished", "threat_of", "unfinished"]
