"""Every registered rule as it is installed, held against brute force.

A new rule is judged here as soon as it is registered: it must never certify what an attacker can
change. A line in ``ATTACKERS`` states that it is tight, too, and against whom.
"""

from collections.abc import Callable

import numpy as np

from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.certificates import RULES, Threat, margins
from tests.pipeline.certificates.bruteforce import (
    Geometry,
    ViewSet,
    any_views,
    can_change,
    most_views,
    touched_sets,
    view_masks,
)

ATTACKERS: dict[str, Callable[[Geometry], set[ViewSet]]] = {
    "exact": touched_sets,
    "uniform": lambda g: any_views(len(view_masks(g)), most_views(g)),
}
"""Of a rule that certifies all that it soundly can: the sets of views its attacker may rewrite."""

DETERMINISTIC = [
    name for name, rule in RULES.items() if rule.deterministic and not rule.about_masks
]
"""Rules about the class with most votes; those with an answer of their own have their own tests."""

KNOWN = frozenset(RULES)


def threat_of(g: Geometry) -> Threat:
    """The threat of a geometry, as the code under test wants it."""
    if g.area is not None:
        return Threat(area=g.area)
    return Threat(Patch(g.patch_height, g.patch_width), count=g.count)


def check(g: Geometry, votes: np.ndarray, num_classes: int) -> dict[str, int]:
    """Compare every deterministic rule with brute force; the images that each certifies."""
    sets = touched_sets(g)
    changeable = can_change(votes, sets, num_classes)
    arguments = (votes, Ablation(**g.ablation), threat_of(g), num_classes)
    added = [name for name in RULES if name not in KNOWN]
    found = {name: margins(name, *arguments) for name in (*DETERMINISTIC, *added)}
    for name, margin in found.items():
        assert not ((margin >= 0) & changeable).any(), f"{name} certifies what can change, {g}"
        attackable = changeable
        if ATTACKERS.get(name) is not touched_sets:
            # Sets of any views are too many to try where there are many views.
            if name not in ATTACKERS or (most_views(g) > 4 and votes.shape[1] > 6):
                continue
            attackable = can_change(votes, ATTACKERS[name](g), num_classes)
        np.testing.assert_array_equal(margin >= 0, ~attackable, err_msg=f"{name}, {g}")
    assert (found["exact"] >= found["uniform"]).all(), f"exact loses to uniform, {g}"
    return {name: int((margin >= 0).sum()) for name, margin in found.items()}
