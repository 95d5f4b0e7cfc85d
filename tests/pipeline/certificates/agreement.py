"""Every registered rule as it is installed, held against brute force.

A new rule is judged here as soon as it is registered: it must never certify what an attacker can
change. A line in ``ATTACKERS`` states that it is tight, too, and against whom. A rule with an
answer of its own is asked again about attacked votes: here about some, in ``decisions_judge`` about
all.
"""

from collections.abc import Callable

import numpy as np

from models.views.ablations import Ablation
from models.views.family import Patch, ViewFamily
from pipeline.certificates import RULES, Rule, Threat, VoteBatch, margins
from pipeline.certificates.rule import ALERT
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
    name for name, rule in RULES.items() if rule.deterministic and name != "double-masking"
]
"""The rules that every input of ablations is tried on."""

MONOTONE = [name for name in DETERMINISTIC if RULES[name].monotone]
"""Those that certify every smaller patch with a larger one."""


def threat_of(g: Geometry) -> Threat:
    """The threat of a geometry, as the code under test wants it."""
    if g.area is not None:
        return Threat(area=g.area)
    return Threat(Patch(g.patch_height, g.patch_width), count=g.count)


def check(g: Geometry, votes: np.ndarray, num_classes: int) -> dict[str, int]:
    """Compare every deterministic rule with brute force; the images that each certifies."""
    sets = touched_sets(g)
    changeable = can_change(votes, sets, num_classes)
    views, threat = Ablation(**g.ablation), threat_of(g)
    found: dict[str, np.ndarray] = {}
    for name, rule in RULES.items():
        if not rule.deterministic or not knows(rule, views, threat, num_classes):
            continue
        found[name] = margin = margins(name, votes, views, threat, num_classes)
        if type(rule).predict is not Rule.predict:
            stays_answered(rule, votes, g, sets, num_classes)
            continue
        assert not ((margin >= 0) & changeable).any(), f"{name} certifies what can change, {g}"
        attackable = changeable
        if ATTACKERS.get(name) is not touched_sets:
            # Sets of any views are too many to try where there are many views.
            if name not in ATTACKERS or (most_views(g) > 4 and votes.shape[1] > 6):
                continue
            attackable = can_change(votes, ATTACKERS[name](g), num_classes)
        np.testing.assert_array_equal(margin >= 0, ~attackable, err_msg=f"{name}, {g}")
    assert (found["exact"] >= found["uniform"]).all(), f"exact loses to uniform, {g}"
    if "two-location" in found:
        lost = (found["exact"] >= 0) & (found["two-location"] < 0)
        assert not lost.any(), f"two-location loses to exact, {g}"
    return {name: int((margin >= 0).sum()) for name, margin in found.items()}


def knows(rule: Rule, views: ViewFamily, threat: Threat, num_classes: int) -> bool:
    """Tell whether a rule agrees to certify such views against such a threat."""
    try:
        rule.check(views, threat, num_classes)
    except ValueError:
        return False
    return True


def stays_answered(
    rule: Rule, votes: np.ndarray, g: Geometry, sets: set[ViewSet], num_classes: int
) -> None:
    """Ask a rule again after votes of other images have taken the place of the touched ones."""
    threat, views = threat_of(g), Ablation(**g.ablation)
    batch = VoteBatch(votes, views, num_classes)
    certified, answers = rule.margins(batch, threat) >= 0, rule.predict(batch, threat)
    attacked = []
    for number, touched in enumerate(sets):
        attacked.append(votes.copy())
        chosen = list(touched)
        attacked[-1][:, chosen] = np.roll(votes, number + 1, axis=0)[:, chosen]
    again = VoteBatch(np.concatenate(attacked), views, num_classes)
    after = rule.predict(again, threat).reshape(len(sets), len(votes))
    wrong = (after != answers) & ~(rule.alerts & (after == ALERT)) & certified
    assert not wrong.any(), f"{rule.name} certifies what changes, {g}"
