"""The rules by name: what each guarantees, of which votes, and how it is computed.

A new rule is one function of (poll, threat) that returns margins, and one line in ``RULES``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from models.nearest import did_you_mean
from models.views.ablations import Ablation, IntArray, Patch
from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch, margins_of
from pipeline.certificates.exact import exact
from pipeline.certificates.randomized import CONFIDENCE, randomized
from pipeline.certificates.top_k import top_k
from pipeline.certificates.uniform import uniform
from pipeline.certificates.votes import VoteArray

MarginFunction = Callable[[VoteBatch, Threat], IntArray]
TopKFunction = Callable[[VoteBatch, Threat, int, IntArray], IntArray]


@dataclass(frozen=True)
class Rule:
    """A certificate.

    Attributes:
        name: How commands and tables call it.
        guarantee: What a margin >= 0 proves, in one line.
        margins: Margins of the images of a poll under a threat; int64 (N,). They never rise with
            the views that the attacker can touch: ``largest`` relies on it.
        top_k: Margins by which given classes stay among the k first (``top_k.top_k``), where the
            rule speaks of that; else None.
        deterministic: True where the votes must be those of every view of the ablation, in its
            order; False where they must be those of views drawn from it at random. Arrays do not
            tell which they are, so ``rule_for`` is told.
    """

    name: str
    guarantee: str
    margins: MarginFunction
    top_k: TopKFunction | None = None
    deterministic: bool = True


def _randomized(confidence: float) -> Rule:
    return Rule(
        "randomized",
        f"With confidence {confidence:g} for each image, no rewriting of the votes that a patch "
        "touches changes the prediction of the ideal classifier, which asks every position.",
        partial(randomized, confidence=confidence),
        deterministic=False,
    )


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "uniform",
            "No rewriting of as many votes as the worst location touches changes the prediction.",
            uniform,
        ),
        Rule(
            "exact",
            "No rewriting of the votes that any one location touches changes the prediction.",
            exact,
            top_k=top_k,
        ),
        _randomized(CONFIDENCE),
    )
}


def rule_named(rule_name: str) -> Rule:
    """The rule of this name.

    Raises:
        ValueError: There is none; the message has the nearest.
    """
    if rule_name not in RULES:
        hint = did_you_mean(rule_name, RULES)
        raise ValueError(
            f"rule={rule_name!r}: there is no such rule{hint and f' ({hint})'}; "
            f"choose {', '.join(RULES)}"
        )
    return RULES[rule_name]


def rule_for(rule_name: str, *, randomized: bool, confidence: float = CONFIDENCE) -> Rule:
    """The rule of this name, if its theorem holds for the votes of a run.

    Args:
        rule_name: A key of ``RULES``.
        randomized: Whether the run drew the positions of each image at random.
        confidence: Confidence for each image, for the rule that has one.

    Raises:
        ValueError: There is no such rule, or it is not one for such votes.
    """
    rule = rule_named(rule_name)
    if rule.deterministic == randomized:
        fitting = [other.name for other in RULES.values() if other.deterministic != randomized]
        raise ValueError(
            f"rule={rule_name!r}: it is about "
            + (
                "the vote of every view of a fixed family, and these votes were cast at random "
                "positions"
                if randomized
                else "votes at positions drawn at random, and these are of a fixed family"
            )
            + f"; choose {', '.join(fitting)}"
        )
    return rule if rule.deterministic else _randomized(confidence)


def check_claim(rule: Rule, ablation: Ablation, threat: Threat, num_classes: int, k: int) -> None:
    """Find out before anything is computed whether a rule can speak of a threat.

    Args:
        rule: The rule.
        ablation: The views that vote.
        threat: What the attacker may do.
        num_classes: Number of classes C.
        k: Places to stay in; 1 asks whether the prediction stays.

    Raises:
        ValueError: The threat does not fit the image, or the rule does not know such threats or
            places.
    """
    if k > 1 and rule.top_k is None:
        fitting = [
            other.name
            for other in RULES.values()
            if other.top_k is not None and other.deterministic == rule.deterministic
        ]
        raise ValueError(
            f"top_k={k}: the rule {rule.name!r} speaks of the prediction alone; choose "
            + (", ".join(fitting) or "top_k=1")
        )
    nobody = VoteBatch(np.zeros((0, len(ablation)), np.int64), ablation, num_classes)
    if k > 1 and rule.top_k is not None:
        rule.top_k(nobody, threat, k, np.zeros(0, np.int64))
    else:
        rule.margins(nobody, threat)


def margins(
    rule_name: str,
    votes: VoteArray,
    ablation: Ablation,
    threat: Threat | Patch,
    num_classes: int,
    *,
    randomized: bool = False,
    confidence: float = CONFIDENCE,
) -> IntArray:
    """Margin of each image under a rule, certified iff >= 0; int64 (N,).

    Args:
        rule_name: A key of ``RULES``.
        votes: Class that each ablation voted for, in the ablation's order, integers (N, V), or the
            set of classes, (N, V, T) with -1 in empty slots; of the drawn ablations if randomized.
        ablation: The views that voted, or that were drawn from.
        threat: What the attacker may do, in pixels of the ablation's grid; a patch is the threat of
            one such rectangle.
        num_classes: Number of classes C.
        randomized: Whether the views were drawn at random for each image.
        confidence: Confidence for each image, for the rule that has one.

    Raises:
        ValueError: There is no such rule, or the rule refuses its input.
    """
    rule = rule_for(rule_name, randomized=randomized, confidence=confidence)
    return margins_of(rule.margins, votes, ablation, threat, num_classes, drawn=randomized)
