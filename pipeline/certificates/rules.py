"""The rules by name: what each guarantees and how it is computed.

A new rule is one function of (votes, ablation, patch, num_classes) that returns margins, and one
line in ``RULES``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from models.ablation import Ablation, IntArray, Patch
from pipeline.certificates.counts import VoteArray
from pipeline.certificates.exact import exact_margins
from pipeline.certificates.uniform import uniform_margins

MarginFunction = Callable[[VoteArray, Ablation, Patch, int], IntArray]


@dataclass(frozen=True)
class Rule:
    """A certificate.

    Attributes:
        name: How commands and tables call it.
        guarantee: What a margin >= 0 proves, in one line.
        margins: Margins of (votes_nv, ablation, patch, num_classes); int64 (N,).
    """

    name: str
    guarantee: str
    margins: MarginFunction


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
    )
}


def margins(
    rule_name: str, votes_nv: VoteArray, ablation: Ablation, patch: Patch, num_classes: int
) -> IntArray:
    """Margin of each image under a rule, certified iff >= 0; int64 (N,).

    Args:
        rule_name: A key of ``RULES``.
        votes_nv: Class that each ablation voted for, in the ablation's order; integers (N, V).
        ablation: The views that voted.
        patch: Height and width of the adversarial patch, in pixels of the ablation's grid.
        num_classes: Number of classes C.

    Raises:
        ValueError: There is no such rule, or the rule refuses its input.
    """
    if rule_name not in RULES:
        raise ValueError(f"rule={rule_name!r}: there is no such rule; choose {', '.join(RULES)}")
    return RULES[rule_name].margins(votes_nv, ablation, patch, num_classes)
