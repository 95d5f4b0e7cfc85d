"""The registry of rules: the only place that lists them.

Commands, default claims, the largest certified squares, tables, curves and colours take their rules
from here. A new rule is a ``Rule`` in a file of its own and one entry below.
"""

from collections.abc import Iterable

from models.nearest import did_you_mean
from models.views.family import IntArray, Patch, ViewFamily
from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch, margins_of
from pipeline.certificates.double_masking import DoubleMasking
from pipeline.certificates.exact import Exact
from pipeline.certificates.one_location import OneLocation
from pipeline.certificates.randomized import CONFIDENCE, Randomized
from pipeline.certificates.rule import RULES, Rule, Terms
from pipeline.certificates.two_location import TwoLocation
from pipeline.certificates.uniform import Uniform
from pipeline.certificates.votes import VoteArray

# Of the default rules of one kind, each certifies all that the one before it does.
RULES.update(
    {
        rule.name: rule
        for rule in (
            Uniform(),
            Exact(),
            Randomized(),
            TwoLocation(),
            OneLocation(),
            DoubleMasking(),
        )
    }
)


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


def rule_for(
    rule_name: str,
    *,
    randomized: bool,
    confidence: float = CONFIDENCE,
    assumed: Threat | None = None,
    tau: float | None = None,
) -> Rule:
    """The rule of this name, if its theorem holds for the votes of a run.

    Args:
        rule_name: A key of ``RULES``.
        randomized: True where the run drew the positions of each image at random.
        confidence: Confidence for each image, for the rule that has one.
        assumed: The largest patch, for a decision that is built for one; None takes each threat.
        tau: Gap up to which a view has no say, for the rule that has one.

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
    return rule.at(Terms(confidence, assumed, tau))


def default_rules(
    views: ViewFamily | None = None, *, randomized: bool, top_k: int = 1
) -> list[Rule]:
    """The rules to ask where a request names none.

    Args:
        views: The views that vote; None stands for any ablations.
        randomized: True where the positions of each image were drawn at random.
        top_k: Places to stay in. Of drawn votes the only rule is returned all the same, so that its
            ``check`` says why it cannot speak of several.
    """
    return [
        rule
        for rule in RULES.values()
        if (rule.default if views is None else rule.default_for(views))
        and rule.deterministic != randomized
        and (top_k == 1 or rule.ranks_places or randomized)
    ]


def largest_rules(views: ViewFamily | None = None, *, randomized: bool) -> list[Rule]:
    """The rules of which the largest certified square of each image is computed."""
    if randomized or (views is not None and views.hides):
        return []
    return [rule for rule in default_rules(randomized=False) if rule.monotone]


def rule_of_locations(views: ViewFamily | None = None) -> Rule:
    """The rule that says where a patch breaks an image; of ablations, by which rival as well.

    Args:
        views: The views that vote; None stands for any ablations.
    """
    hides = views is not None and views.hides
    return next(rule for rule in RULES.values() if rule.by_location and rule.about_masks >= hides)


def drawing_order(rules: Iterable[Rule] | None = None) -> list[str]:
    """Names of rules, all by default, in the order of figures: a rule after those that cover it."""
    order: dict[str, None] = {}
    for name in RULES:
        covering = [other.name for other in RULES.values() if name in other.covers]
        order |= dict.fromkeys([*covering, name])
    chosen = set(RULES) if rules is None else {rule.name for rule in rules}
    return [name for name in order if name in chosen]


def uncovered(names: Iterable[str]) -> set[str]:
    """Those of the rules that no other one of them covers: enough where there is little room."""
    chosen = set(names)
    return chosen.difference(*(RULES[name].covers for name in chosen & RULES.keys()))


def margins(
    rule_name: str,
    votes: VoteArray,
    views: ViewFamily,
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
        views: The views that voted, or that were drawn from.
        threat: What the attacker may do, in pixels of the ablation's grid; a patch is the threat of
            one such rectangle.
        num_classes: Number of classes C.
        randomized: True where the views were drawn at random for each image.
        confidence: Confidence for each image, for the rule that has one.

    Raises:
        ValueError: There is no such rule, or the rule refuses its input.
    """
    rule = rule_for(rule_name, randomized=randomized, confidence=confidence)

    def checked(batch: VoteBatch, threat: Threat) -> IntArray:
        rule.check(views, threat, num_classes)
        return rule.margins(batch, threat)

    return margins_of(checked, votes, views, threat, num_classes, drawn=randomized)
