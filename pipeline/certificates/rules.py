"""The rules by name: what each guarantees, of which votes, and how it is computed.

A new rule is one function of (votes, ablation, patch, num_classes) that returns margins, and one
line in ``RULES``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from models.ablation import Ablation, IntArray, Patch
from pipeline.certificates.exact import exact_margins
from pipeline.certificates.randomized import CONFIDENCE, randomized_margins
from pipeline.certificates.uniform import uniform_margins
from pipeline.certificates.votes import VoteArray

MarginFunction = Callable[[VoteArray, Ablation, Patch, int], IntArray]


@dataclass(frozen=True)
class Rule:
    """A certificate.

    Attributes:
        name: How commands and tables call it.
        guarantee: What a margin >= 0 proves, in one line.
        margins: Margins of (votes, ablation, patch, num_classes); int64 (N,).
        deterministic: True where the votes must be those of every view of the ablation, in its
            order; False where they must be those of views drawn from it at random. Arrays do not
            tell which they are, so ``rule_for`` is told.
    """

    name: str
    guarantee: str
    margins: MarginFunction
    deterministic: bool = True


def _randomized(confidence: float) -> Rule:
    return Rule(
        "randomized",
        f"With confidence {confidence:g} for each image, no rewriting of the votes that a patch "
        "touches changes the prediction of the ideal classifier, which asks every position.",
        partial(randomized_margins, confidence=confidence),
        deterministic=False,
    )


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "uniform",
            "No rewriting of as many votes as the worst location touches changes the prediction.",
            uniform_margins,
        ),
        Rule(
            "exact",
            "No rewriting of the votes that any one location touches changes the prediction.",
            exact_margins,
        ),
        _randomized(CONFIDENCE),
    )
}


def rule_for(rule_name: str, *, randomized: bool, confidence: float = CONFIDENCE) -> Rule:
    """The rule of this name, if its theorem holds for the votes of a run.

    Args:
        rule_name: A key of ``RULES``.
        randomized: Whether the run drew the positions of each image at random.
        confidence: Confidence for each image, for the rule that has one.

    Raises:
        ValueError: There is no such rule, or it is not one for such votes.
    """
    if rule_name not in RULES:
        raise ValueError(f"rule={rule_name!r}: there is no such rule; choose {', '.join(RULES)}")
    rule = RULES[rule_name]
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


def margins(
    rule_name: str,
    votes: VoteArray,
    ablation: Ablation,
    patch: Patch,
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
        patch: Height and width of the adversarial patch, in pixels of the ablation's grid.
        num_classes: Number of classes C.
        randomized: Whether the views were drawn at random for each image.
        confidence: Confidence for each image, for the rule that has one.

    Raises:
        ValueError: There is no such rule, or the rule refuses its input.
    """
    rule = rule_for(rule_name, randomized=randomized, confidence=confidence)
    return rule.margins(votes, ablation, patch, num_classes)
