"""Refusals of decisions, in words with a remedy, and the remedies accepted."""

import time

import numpy as np
import pytest

from models.views.ablations import Ablation
from models.views.family import Patch
from models.views.masks import Mask, Masks, Placement
from pipeline.certificates import RULES, Threat, margins
from pipeline.certificates.one_location import OneLocation
from pipeline.certificates.rule import Terms
from pipeline.certificates.rules import default_rules, largest_rules, rule_for
from pipeline.certificates.two_location import TwoLocation


def masks(covers: int = 32, *, pairs: bool = True, most: int = 6) -> Masks:
    """The masks of a length of 224 px."""
    axis = Placement.covering(224, covers, most)
    sides = {"height": 224, "width": 224, "placements": [(axis, axis)]}
    return Masks.placed(**sides, pairs=pairs, covers=[Patch.square(covers)])


BANDS = Ablation(kind="column", size=19, stride=1, height=224, width=224)
PAIRS, ALONE = masks(), masks(pairs=False)
AXIS = Placement.at_stride(224, 160, 32, wraps=True)
WRAPPED = Masks.placed(
    height=224, width=224, placements=[(AXIS, AXIS)], pairs=False, covers=[Patch.square(32)]
)
TWO, ONE, DOUBLE = RULES["two-location"], RULES["one-location"], RULES["double-masking"]
AT_32 = Threat.square(32)


@pytest.mark.parametrize("name", ["exact", "uniform"])
def test_rules_of_ablations_do_not_speak_of_masks(name):
    with pytest.raises(ValueError, match="does not speak of masks") as refused:
        RULES[name].check(PAIRS, AT_32, 1000)
    remedy = str(refused.value).split("choose ")[1].split(", ")
    assert remedy == ["two-location", "one-location", "double-masking"]
    for rule in remedy:
        RULES[rule].check(PAIRS, AT_32, 1000)
    RULES[name].check(BANDS, AT_32, 1000)


def test_two_locations_need_views_that_hide_both():
    message = r"32x32: some two locations .*no view.*--views mask-pair, or .*--rule one-location"
    with pytest.raises(ValueError, match=message):
        TWO.check(ALONE, AT_32, 1000)
    TWO.check(PAIRS, AT_32, 1000)
    ONE.check(ALONE, AT_32, 1000)
    two_patches = Threat.parse("2of32")
    with pytest.raises(ValueError, match="--views mask-pair"):
        ONE.check(ALONE, two_patches, 1000)
    ONE.check(PAIRS, two_patches, 1000)
    TWO.check(WRAPPED, AT_32, 1000)  # one large mask hides both
    TWO.check(BANDS, AT_32, 1000)


@pytest.mark.parametrize("rule", [TWO, ONE, DOUBLE], ids=lambda rule: rule.name)
@pytest.mark.parametrize("side", [33, 40, 64, 96, 200])
def test_a_patch_larger_than_the_masks_cover(rule, side):
    threat = Threat.square(side)
    with pytest.raises(
        ValueError, match=rf"patch {side}x{side}.*(larger masks|--covers)"
    ) as refused:
        rule.check(PAIRS, threat, 1000)
    assert "--views mask-pair" not in str(refused.value), "the views are mask pairs already"
    if side <= 64:
        rule.check(masks(side), threat, 1000)
    rule.check(PAIRS, AT_32, 1000)
    rule.check(PAIRS, Threat(Patch(7, 32)), 1000)


@pytest.mark.parametrize("kind", [TwoLocation, OneLocation])
@pytest.mark.parametrize("views", [PAIRS, BANDS], ids=["masks", "bands"])
def test_a_threat_lies_within_what_is_assumed(kind, views):
    rule = kind(Threat.square(16))
    rule.check(views, Threat.square(16), 1000)
    rule.check(views, Threat(Patch(2, 9)), 1000)
    for threat in (Threat.square(17), Threat(Patch(4, 17)), Threat(area=17)):
        with pytest.raises(ValueError, match=r"assumes a patch of at most 16x16; .*--assume") as no:
            rule.check(views, threat, 1000)
        assert f"patch {threat}" in str(no.value)
        if views is BANDS or threat.area is None:
            kind(threat).check(views, threat, 1000)
    assert rule_for(rule.name, randomized=False, assumed=Threat.square(16)) == rule


def test_an_area_is_covered_by_masks_of_every_shape():
    threat = Threat(area=4)
    covers = threat.patches(BANDS)
    sets = []
    for patch in covers:
        down, across = (Placement.covering(12, side, 2) for side in patch)
        sides = {"height": 12, "width": 12, "placements": [(down, across)]}
        sets += Masks.placed(**sides, pairs=False, covers=[patch]).masks
    union = Masks(height=12, width=12, masks=tuple(dict.fromkeys(sets)), pairs=True, covers=covers)
    for rule in (TWO, ONE, DOUBLE):
        rule.check(union, threat, 10)
        with pytest.raises(ValueError, match=r"area<=|12x12|12 px|x"):
            rule.check(union, Threat(area=60), 10)


@pytest.mark.parametrize(
    ("rule", "text", "message"),
    [
        (TWO, "2of8", r"2 of 8x8: recovery .*one patch; .*--rule one-location"),
        (TwoLocation(Threat.parse("2of8")), "8", r"2 of 8x8: recovery .*one patch; .*one-location"),
        (ONE, "3of8", r"3 of 8x8: detection is about one patch or two; ask for these"),
        (OneLocation(Threat.parse("3of8")), "8", r"3 of 8x8: detection is about one patch or two"),
        (DOUBLE, "2of8", "2 of 8x8: double masking is about one patch; ask for one"),
    ],
)
def test_so_many_patches_are_too_many(rule, text, message):
    with pytest.raises(ValueError, match=message):
        rule.check(PAIRS, Threat.parse(text), 1000)
    ONE.check(PAIRS, Threat.parse("2of8"), 1000)
    rule.at(Terms()).check(PAIRS, Threat.square(8), 1000)


def test_double_masking_is_about_pairs():
    for views in (BANDS, ALONE, WRAPPED):
        with pytest.raises(ValueError, match=r"it is about pairs of masks, not .*use two-location"):
            DOUBLE.check(views, Threat.square(1), 1000)


def test_a_patch_over_everything_leaves_nothing_to_decide_by():
    for rule in (TWO, ONE):
        with pytest.raises(ValueError, match=r"touches every view.*choose a smaller --patch"):
            rule.check(BANDS, Threat.square(210), 1000)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_too_many_pairs_are_refused_before_they_are_counted(stride):
    blocks = Ablation(kind="block", size=20, stride=stride, height=224, width=224)
    begun = time.process_time()
    with pytest.raises(
        ValueError, match=r"views are too many pairs.*coarser --stride, or the exact"
    ):
        TWO.check(blocks, AT_32, 1000)
    assert time.process_time() - begun < 20
    RULES["exact"].check(blocks, AT_32, 1000)
    TWO.check(Ablation(kind="block", size=20, stride=16, height=224, width=224), AT_32, 1000)


def test_top_k_is_asked_of_another_rule():
    for rule in (TWO, ONE, DOUBLE):
        with pytest.raises(ValueError, match=r"top_k=2: .*choose exact"):
            rule.check(BANDS, AT_32, 1000, top_k=2)


def test_default_rules_fit_the_views():
    families = (BANDS, PAIRS, ALONE, WRAPPED)
    names = {
        views: [rule.name for rule in default_rules(views, randomized=False)] for views in families
    }
    assert names[PAIRS] == ["two-location", "one-location"]
    assert names[WRAPPED] == ["two-location", "one-location"]
    assert names[ALONE] == ["one-location"]
    assert "exact" in names[BANDS]
    assert largest_rules(PAIRS, randomized=False) == []
    for views, found in names.items():
        for name in found:
            RULES[name].check(views, Threat.square(16), 1000)


def test_masks_alone_that_hide_two_locations():
    line = Masks(height=1, width=4, masks=(Mask(0, 0, 1, 4),), pairs=False, covers=(Patch(1, 1),))
    assert line.hides_two
    TWO.check(line, Threat.square(1), 2)


@pytest.mark.parametrize(
    ("name", "views", "side"),
    [
        ("double-masking", PAIRS, 33),
        ("double-masking", BANDS, 32),
        ("two-location", PAIRS, 33),
        ("two-location", ALONE, 32),
        ("one-location", PAIRS, 33),
        ("exact", PAIRS, 32),
        ("uniform", PAIRS, 32),
    ],
)
def test_margins_of_votes_are_checked_too(name, views, side):
    """Unanimous labels would be certified by a rule that is asked beyond its theorem."""
    votes = np.zeros((2, len(views)), int)
    with pytest.raises(ValueError, match=r"patch 33|rule=|--views mask-pair"):
        margins(name, votes, views, Patch.square(side), 10)
    if name not in ("exact", "uniform") and views is PAIRS:
        assert (margins(name, votes, views, Patch.square(32), 10) >= 0).all()
