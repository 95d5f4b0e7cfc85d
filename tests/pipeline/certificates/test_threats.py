"""Threats: one text each way, the rectangles that matter, refusals, and every rule against them."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.certificates import Threat, detection_leads, margins, top_k_margins
from pipeline.certificates.attack_sets import attack_sets
from tests.pipeline.certificates.agreement import check, threat_of
from tests.pipeline.certificates.bruteforce import (
    Geometry,
    can_evict,
    class_counts,
    touched_sets,
    view_masks,
    worst_leads,
)
from tests.pipeline.certificates.cases import some_sets, some_votes

TEXTS = {
    "32": "32x32",
    "16x48": "16x48",
    "2*32": "2 of 32x32",
    "2of32": "2 of 32x32",
    "3 of 4x5": "3 of 4x5",
    "area<=1024": "area<=1024",
    "area:1024": "area<=1024",
    "2%": "2%",
    "2.50 %": "2.5%",
    "2of2%": "2 of 2%",
    "source:50": "source:50",
    "source:50x50": "source:50",
    "source: 40x60": "source:40x60",
    "source:2%": "source:2%",
    "2 of source:5": "2 of source:5",
}


@pytest.mark.parametrize("text", TEXTS)
def test_texts(text):
    threat = Threat.parse(text)
    assert str(threat) == TEXTS[text]
    assert Threat.parse(str(threat)) == threat
    assert threat.side == (32 if text == "32" else None)
    assert hash(threat) == hash(Threat.parse(str(threat)))


def test_a_side_and_a_patch_are_threats():
    assert Threat.parse(7) == Threat.square(7) == Threat.of(Patch(7, 7))
    assert Threat.square(7).side == 7
    assert Threat.of(Threat(area=3)) == Threat(area=3)


@pytest.mark.parametrize("text", ["", "a", "-3", "3x", "area", "1.5", "2of", "3x4x5"])
def test_texts_that_mean_nothing(text):
    with pytest.raises(ValueError, match="write 32"):
        Threat.parse(text)


@pytest.mark.parametrize(
    ("text", "height", "width", "side"),
    [
        ("2%", 224, 224, 32),
        ("1%", 100, 100, 10),
        ("10%", 32, 32, 11),
        ("100%", 3, 5, 4),
        ("0.0001%", 10, 10, 1),
        ("source:2%", 375, 500, 62),
    ],
)
def test_a_share_is_the_smallest_square_that_has_it(text, height, width, side):
    threat = Threat.parse(text).of_picture(height, width)
    assert threat.patch == Patch.square(side)
    assert threat.source == ("source" in text)
    share = float(text.removeprefix("source:").removesuffix("%")) / 100
    assert (side - 1) ** 2 < share * height * width <= side**2


def test_a_share_of_the_grid_is_a_patch_and_one_of_the_source_is_none():
    views = Ablation(kind="column", size=19, stride=1, height=224, width=224)
    assert Threat.parse("2%").on(views) == Threat.square(32)
    assert Threat.parse("2%").patches(views) == (Patch.square(32),)
    on_source = Threat.parse("source:2%")
    assert on_source.on(views) == on_source
    assert on_source.side is Threat.parse("source:50").side is None
    with pytest.raises(ValueError, match=r"source:2%: .*size of each picture.*, such as 32"):
        on_source.patches(views)


@pytest.mark.parametrize("text", ["0%", "100.5%", "source:0%"])
def test_shares_that_are_none(text):
    with pytest.raises(ValueError, match="above 0 % and up to 100 %"):
        Threat.parse(text)


def test_an_area_of_the_source_is_refused():
    with pytest.raises(ValueError, match=r"source:area<=9.*such as source:50"):
        Threat.parse("source:area<=9")


@pytest.mark.parametrize("text", ["0", "0x3", "area:0", "0of3", "source:0"])
def test_nothing_is_no_threat(text):
    with pytest.raises(ValueError, match="at least 1"):
        Threat.parse(text)


def test_contradictions_are_refused():
    with pytest.raises(ValueError, match="several rectangles of any shape"):
        Threat.parse("2 of area<=4")
    for both in ({}, {"patch": Patch(1, 1), "area": 3}):
        with pytest.raises(ValueError, match="either"):
            Threat(**both)


def test_threats_are_ordered_squares_first():
    texts = [
        "source:2%",
        "source:1%",
        "source:9",
        "2 of 1x1",
        "area<=9",
        "area<=3",
        "2x1",
        "1x3",
        "10",
        "9",
    ]
    ordered = sorted(map(Threat.parse, texts), key=lambda threat: threat.order)
    expected = ["9x9", "10x10", "2x1", "1x3", "area<=3", "area<=9"]
    expected += ["source:1%", "source:2%", "source:9", "2 of 1x1"]
    assert list(map(str, ordered)) == expected


@settings(max_examples=80, deadline=None, database=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 90))
def test_an_area_is_its_largest_rectangles(height, width, area):
    ablation = Ablation(kind="block", size=1, stride=1, height=height, width=width)
    found = Threat(area=area).patches(ablation)
    every = [(h, w) for h, w in product(range(1, height + 1), range(1, width + 1)) if h * w <= area]
    maximal = {(h, w) for h, w in every if (h + 1, w) not in every and (h, w + 1) not in every}
    assert set(found) >= maximal
    assert set(found) <= set(every)


@pytest.mark.parametrize("kind", ["column", "row"])
@pytest.mark.parametrize("area", [1, 5, 11, 12, 200])
def test_on_a_line_an_area_is_one_patch(kind, area):
    """The theorem of ``attack_sets``: only the extent across the bands counts, k pixels of it."""
    ablation = Ablation(kind=kind, size=2, stride=1, height=12, width=12)
    votes = some_votes(12, 3, limit=200)
    across = min(area, 12)
    patch = Patch(1, across) if kind == "column" else Patch(across, 1)
    assert len(attack_sets(ablation, Threat(area=area))) == 1
    for rule in ("uniform", "exact"):
        found = margins(rule, votes, ablation, Threat(area=area), 3)
        assert found.tolist() == margins(rule, votes, ablation, patch, 3).tolist()
        if area >= 12:
            assert (margins(rule, votes * 0, ablation, Threat(area=area), 3) < 0).all()


def geometries():
    """Areas, rectangles and pairs on every kind; small enough for every outcome."""
    for kind, (height, width) in product(("column", "row", "block"), ((4, 5), (1, 7), (6, 2))):
        longest = {"column": width, "row": height, "block": min(height, width)}[kind]
        for size, stride in product(range(1, min(longest, 2) + 1), range(1, min(longest, 4) + 1)):
            for area in (2, 3, 6):
                yield Geometry(kind, size, stride, height, width, 0, 0, area=area)
            for patch in ((1, 2), (2, 1), (1, 3)):
                if patch[0] <= height and patch[1] <= width:
                    yield Geometry(kind, size, stride, height, width, *patch)
                    if kind != "block":
                        yield Geometry(kind, size, stride, height, width, *patch, count=2)


@pytest.mark.parametrize(
    ("num_classes", "most"), [(2, None), (4, None), (3, 2)], ids=["2", "4", "sets"]
)
def test_every_rule_agrees_with_brute_force(num_classes, most):
    certified, rng = 0, np.random.default_rng(0)
    for g in geometries():
        sets, views = touched_sets(g), len(view_masks(g))
        if max(map(len, sets)) > (3 if most else 4):
            continue
        sample = some_sets(views, 3, most, 20) if most else some_votes(views, num_classes, 20)
        votes = sample[rng.permutation(len(sample))[:12]]
        certified += check(g, votes, num_classes)["exact"]
        if g.count == 1:
            agree_on_detection(g, votes, sets, num_classes)
            agree_on_places(g, votes, sets, num_classes)
    assert certified


def agree_on_detection(g, votes, sets, num_classes):
    leads = detection_leads(votes, Ablation(**g.ablation), threat_of(g), num_classes)
    attack, kept = worst_leads(votes, sets, num_classes)
    counts = np.sort(class_counts(votes, num_classes), axis=1)
    np.testing.assert_array_equal(leads.lead_n, counts[:, -1] - counts[:, -2], err_msg=str(g))
    np.testing.assert_array_equal(leads.attack_lead_n, attack, err_msg=str(g))
    np.testing.assert_array_equal(leads.kept_lead_n, kept, err_msg=str(g))


def agree_on_places(g, votes, sets, num_classes):
    ablation, threat = Ablation(**g.ablation), threat_of(g)
    rng = np.random.default_rng(len(votes))
    for k in range(1, num_classes):
        classes = rng.integers(num_classes, size=len(votes))
        found = top_k_margins(votes, ablation, threat, num_classes, k=k, classes_n=classes)
        evicted = can_evict(votes, sets, num_classes, classes, k)
        np.testing.assert_array_equal(found >= 0, ~evicted, err_msg=f"{g}, k={k}")


def test_two_patches_are_worse_than_one_and_no_worse_than_uniform_says():
    ablation = Ablation(kind="column", size=19, stride=1, height=224, width=224)
    votes = some_votes(224, 1000, limit=60)
    one = margins("exact", votes, ablation, Patch.square(16), 1000)
    two = margins("exact", votes, ablation, Threat.parse("2of16"), 1000)
    bound = margins("uniform", votes, ablation, Threat.parse("2of16"), 1000)
    assert (one > two).all()
    assert (two >= bound).all()


@pytest.mark.parametrize(("kind", "text"), [("block", "2of1"), ("column", "3of1"), ("row", "4of1")])
def test_the_exact_rule_refuses_what_it_does_not_know(kind, text):
    ablation = Ablation(kind=kind, size=2, stride=1, height=6, width=6)
    votes = np.zeros((1, len(ablation)), int)
    with pytest.raises(ValueError, match=r"use the uniform rule"):
        margins("exact", votes, ablation, Threat.parse(text), 3)
    assert margins("uniform", votes, ablation, Threat.parse(text), 3).shape == (1,)


def test_places_and_detection_refuse_several_patches():
    ablation = Ablation(kind="column", size=2, stride=1, height=6, width=6)
    votes = np.zeros((1, 6), int)
    with pytest.raises(ValueError, match="ask for one"):
        detection_leads(votes, ablation, Threat.parse("2of1"), 3)
    with pytest.raises(ValueError, match="ask for one"):
        top_k_margins(votes, ablation, Threat.parse("2of1"), 3, k=1, classes_n=np.zeros(1, int))
    for k in (0, 3, 4):
        with pytest.raises(ValueError, match="choose 1 to 2 places"):
            top_k_margins(votes, ablation, Patch(1, 1), 3, k=k, classes_n=np.zeros(1, int))
