"""Curtailed voting: an image may stop as soon as no missing vote can change what was asked.

Shape suffixes: N images, V ablations (views).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.ablation import Ablation, BoolArray
from pipeline.certificates.partial import (
    Bracket,
    PartialPoll,
    least_uniform,
    partial_polls,
)
from pipeline.certificates.rules import RULES
from pipeline.certificates.threats import Threat
from pipeline.certificates.uniform import uniform
from pipeline.certificates.votes import VoteArray


@dataclass(frozen=True)
class Curtailment:
    """What an image's votes have to decide, beside its smoothed prediction.

    Attributes:
        threats: Patches against which it is certified or not; each one once, in order.
        rules: Rules by which; each one once, in order.

    Raises:
        ValueError: A rule does not say what votes that are missing can change.
    """

    threats: tuple[Threat, ...]
    rules: tuple[str, ...]

    def __post_init__(self) -> None:
        threats = {str(threat): threat for threat in self.threats}.values()
        object.__setattr__(self, "threats", tuple(sorted(threats, key=lambda t: t.order)))
        object.__setattr__(self, "rules", tuple(sorted(set(self.rules))))
        for rule in self.rules:
            if RULES[rule].least is None:
                fitting = ", ".join(other.name for other in RULES.values() if other.least)
                raise ValueError(
                    f"rule={rule!r}: it does not say what missing votes can change; choose "
                    f"{fitting}, or have all votes cast"
                )

    def __str__(self) -> str:
        threats = ", ".join(map(str, self.threats))
        return f"patches of {threats} px by the rules {' and '.join(self.rules)}"

    def to_dict(self) -> dict[str, list[str]]:
        """Plain JSON; ``from_dict`` reads it back."""
        return {"threats": [str(threat) for threat in self.threats], "rules": list(self.rules)}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "Curtailment":
        """Inverse of ``to_dict``; other keys are left aside."""
        return cls(tuple(map(Threat.parse, entry["threats"])), tuple(entry["rules"]))


def bracket(poll: PartialPoll, threat: Threat, rule_name: str) -> Bracket:
    """The least and the largest margin of all completions, where the prediction is foregone.

    Proof of the largest: every rule's margin is a minimum of terms that rise with votes for c and
    fall with votes for others, and all of R voting for c makes each term largest at once: in
    ``uniform`` n_c - n_j, in ``exact`` r_c - r_j at every I.

    Args:
        poll: The votes.
        threat: What the attacker may do.
        rule_name: A rule with ``least``.

    Raises:
        ValueError: The rule does not know such threats.
    """
    rule = RULES[rule_name]
    assert rule.least is not None, "a Curtailment has no other rules"
    return Bracket(rule.least(poll, threat), rule.margins(poll.filled, threat))


def settled(
    votes: VoteArray, ablation: Ablation, num_classes: int, asked: Curtailment
) -> BoolArray:
    """Whether no completion changes the prediction or a certificate that was asked; bool (N,).

    Guarantee: where it holds, whatever the missing views vote, the smoothed prediction is
    ``PartialPoll.predictions_n``, and every (threat, rule) is certified in all completions or in
    none. Conversely, where it does not hold, two completions differ in one of them.

    Proof: ``foregone_n`` is necessary and sufficient for the prediction; given it, both ends of a
    ``bracket`` are the margins of completions, so a certificate is the same in all of them iff the
    ends lie on one side of 0.

    The uniform rule costs nearly nothing and is asked first, whether asked for or not: its margin
    is never above the exact one, so where it certifies every completion, so does the exact rule.

    Args:
        votes: As ``partial_polls``.
        ablation: As ``partial_polls``.
        num_classes: As ``partial_polls``.
        asked: What is to be decided.

    Raises:
        ValueError: The votes are malformed, or a rule does not know such threats.
    """
    found = np.zeros(len(votes), bool)
    for images, poll in partial_polls(votes, ablation, num_classes):
        found[images] = _settled(poll, asked)
    return found


def _settled(poll: PartialPoll, asked: Curtailment) -> BoolArray:
    open_n = poll.foregone_n.copy()
    certified = {}
    for threat in asked.threats:
        cheap = Bracket(least_uniform(poll, threat), uniform(poll.filled, threat))
        certified[threat] = cheap.lower_n >= 0
        if "uniform" in asked.rules:
            open_n &= cheap.decided_n
    for threat in asked.threats:
        for rule in asked.rules:
            images = np.flatnonzero(open_n & ~certified[threat])
            if rule != "uniform" and len(images):
                open_n[images] = bracket(poll.take(images), threat, rule).decided_n
    return open_n
