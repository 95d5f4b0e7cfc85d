"""The worst location of a patch on one image, found and described in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.views.ablations import Ablation
from models.views.family import BoolArray, IntArray, Patch, ViewFamily
from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch
from pipeline.certificates.leads import least_leads, sums_outside
from pipeline.certificates.locations import location_margins, touched_counts
from pipeline.certificates.rule import ALERT
from pipeline.certificates.rules import default_rules, rule_named
from pipeline.certificates.two_location import margins_of_sets
from pipeline.certificates.witness import touched_at
from pipeline.scoring.words import location


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """The worst location of a patch, of all those where it can lie.

    Attributes:
        y: Upper edge in pixels of the attacker's grid; None where the views cannot tell.
        x: Left edge in the same way.
        touched: Views that the patch touches there.
        landscape_yx: The minimised or maximised quantity at every location; int (Ly, Lx).
        margin: Margin of the rule; None where no votes were given. Certified iff >= 0.
        prediction: The answer; None without votes, and for an alert.
        rival: The class that comes closest there; None without votes, and where none does.
        counts: Votes of prediction and rival before the attack.
        left: Those outside the touched views.
        rule: Name of the decision over masks; None of ablations.
        failing: Views that this location and the other one leave, which name the rival.
        other: Upper left corner (y, x) of that other location.
    """

    y: int | None
    x: int | None
    touched: int
    landscape_yx: IntArray
    margin: int | None = None
    prediction: int | None = None
    rival: int | None = None
    counts: tuple[int, int] = (0, 0)
    left: tuple[int, int] = (0, 0)
    rule: str | None = None
    failing: tuple[int, ...] = ()
    other: tuple[int, int] | None = None


def worst_location(views: ViewFamily, patch: Patch) -> WorstCase:
    """The first location at which the patch touches the most views.

    Raises:
        ValueError: The patch does not fit the image.
    """
    if isinstance(views, Ablation):
        touched_yx = touched_counts(views, patch)
    else:
        sets = views.touched_sets(patch)
        touched_yx = sets.touched_sv.sum(axis=1)[sets.sets_yx]
    row, column = np.unravel_index(touched_yx.argmax(), touched_yx.shape)
    y, x = views.coordinates(int(row), int(column))
    return WorstCase(
        y=y,
        x=x,
        touched=int(touched_yx[row, column]),
        landscape_yx=touched_yx,
    )


def smallest_margin(
    votes_v: IntArray, ablation: Ablation, patch: Patch, num_classes: int
) -> WorstCase:
    """The first location at which the exact margin of one image's votes is smallest.

    Args:
        votes_v: Class that each ablation voted for; int (V,).
        ablation: The views that voted.
        patch: Height and width of the patch.
        num_classes: Number of classes; those without a vote are rivals too.

    Raises:
        ValueError: The patch does not fit the image.
    """
    ((_, found),) = location_margins(votes_v[None], ablation, patch, num_classes)
    winner, margin_yx = int(found.predictions_n[0]), found.margins_nyx[0]
    row, column = np.unravel_index(margin_yx.argmin(), margin_yx.shape)
    rival = int(found.rivals_nyx[0, row, column])
    touched_v = touched_at(ablation, patch, np.array([[row, column]]))[0]

    def votes_of(chosen_v: BoolArray) -> tuple[int, int]:
        counts = np.bincount(votes_v[chosen_v], minlength=num_classes)
        return int(counts[winner]), int(counts[rival])

    y, x = ablation.coordinates(int(row), int(column))
    return WorstCase(
        y=y,
        x=x,
        touched=int(touched_v.sum()),
        landscape_yx=margin_yx.astype(np.int64),
        margin=int(margin_yx[row, column]),
        prediction=winner,
        rival=rival,
        counts=votes_of(np.ones_like(touched_v)),
        left=votes_of(~touched_v),
    )


def decided_case(
    votes_v: IntArray, plain: int, views: ViewFamily, patch: Patch, num_classes: int
) -> WorstCase:
    """The worst location of one image under the decision that its masks have by default.

    Of several worst ones it is one that touches the most views: what it touches lies in no set that
    the decision looks at but itself.

    Args:
        votes_v: Class that each view voted for; int (V,).
        plain: Class of the whole image.
        views: The views that voted, which hide.
        patch: Height and width of the patch.
        num_classes: Number of classes.

    Raises:
        ValueError: The decision cannot be built for the patch.
    """
    rule, threat = default_rules(views, randomized=False)[0], Threat(patch)
    rule.check(views, threat, num_classes)
    batch = VoteBatch(votes_v[None], views, num_classes, plain_n=np.array([plain]))
    sets = views.touched_sets(patch)
    answer = int(rule.predict(batch, threat)[0])
    favourite = batch.ranked.predictions if answer == ALERT else np.array([answer])
    if rule.alerts:
        some = np.array([0])
        found_sn = least_leads(batch, ~sets.touched_sv, favourite, some, sums_outside)
        margins_s = found_sn[:, 0].astype(np.int64)
    else:
        margins_s = margins_of_sets(batch, threat, sets.touched_sv)[:, 0]
    sizes_s = sets.touched_sv.sum(axis=1)
    landscape_yx = margins_s[sets.sets_yx]
    # Margins first, then more views before fewer.
    order_yx = landscape_yx * (len(views) + 1) - sizes_s[sets.sets_yx]
    row, column = np.unravel_index(order_yx.argmin(), order_yx.shape)
    y, x = views.coordinates(int(row), int(column))
    place = sets.sets_yx[row, column]
    untouched_v, failing, rival, other = ~sets.touched_sv[place], np.array([], int), None, None
    # One location speaks by what each leaves alone, two by what each pair does.
    partners = [place] if rule.alerts else range(len(sets.touched_sv))
    for partner in partners:
        shared = np.flatnonzero(untouched_v & ~sets.touched_sv[partner])
        named = int(np.bincount(votes_v[shared], minlength=num_classes).argmax())
        if named != favourite[0] and margins_s[place] < 0:
            failing, rival = shared, named
            if not rule.alerts:
                at = np.argwhere(sets.sets_yx == partner)[0]
                other = int(at[0]), int(at[1])
            break
    return WorstCase(
        y=y,
        x=x,
        touched=int(sizes_s[place]),
        landscape_yx=landscape_yx,
        margin=int(landscape_yx.min()),
        prediction=None if answer == ALERT else answer,
        rival=rival,
        rule=rule.name,
        failing=tuple(failing.tolist()),
        other=other,
    )


def caption_of_decision(
    patch: Patch, worst: WorstCase, name_of: Callable[[int], str], views: int
) -> str:
    """Describe the worst case of a decision over masks in words.

    Args:
        patch: The patch, which the decision assumes.
        worst: Its worst location.
        name_of: Class number to name.
        views: Number of views.
    """
    answer = "alert" if worst.prediction is None else name_of(worst.prediction)
    assumed = f"Answer: {answer} ({worst.rule}, assumes a patch of at most {patch})."
    hit = f"The patch at {location(worst.y, worst.x)} touches {worst.touched} of {views} views"
    if worst.margin is not None and worst.margin >= 0:
        detects = worst.rule is not None and rule_named(worst.rule).alerts
        stays = "there is no other answer without an alert" if detects else "the answer stays"
        return f"{assumed} {hit}; whatever these say, {stays}, there and anywhere: certified."
    if worst.rival is None:
        return f"{assumed} {hit}, and what it leaves is no witness for the answer: uncertified."
    left = "view" if len(worst.failing) == 1 else "views"
    numbers = ", ".join(map(str, worst.failing[:3])) + (", ..." if len(worst.failing) > 3 else "")
    beside = ""
    if worst.other is not None:
        beside = f" Hidden together with the patch at {location(*worst.other)} (dashed),"
    return (
        f"{assumed} {hit}.{beside or ' It leaves'} {left} {numbers} "
        f"{'says' if left == 'view' else 'say'} {name_of(worst.rival)}: uncertified."
    )


def caption_of(
    patch: Patch, worst: WorstCase, names: Sequence[str], views: int, what: str = "ablations"
) -> str:
    """Describe the worst case in words.

    Args:
        patch: The patch.
        worst: Its worst location.
        names: Names of the prediction and the rival; empty without votes.
        views: Number of views.
        what: What to call them.
    """
    band = worst.x is None or worst.y is None
    at = location(worst.y, worst.x) + (" (wherever along the bands)" if band else "")
    hit = f"The patch of {patch} at {at} touches {worst.touched} of {views} {what}"
    if worst.margin is None:
        return f"{hit}, the most of all its locations."
    winner, rival = names
    tie = f" - 1, since {rival} wins ties" if (worst.rival or 0) < (worst.prediction or 0) else ""
    votes = f"{abs(worst.margin)} vote{'' if abs(worst.margin) == 1 else 's'}"
    verdict = f"{votes} to spare, certified" if worst.margin >= 0 else f"{votes} short, uncertified"
    return (
        f"Prediction: {winner} ({worst.counts[0]} of {views} votes); closest rival: {rival} "
        f"({worst.counts[1]}). {hit}: at worst {worst.left[0]} - "
        f"({worst.left[1]} + {worst.touched}){tie}: {verdict}."
    )
