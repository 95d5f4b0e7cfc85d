"""The table and the picture of a summary: every kind of claim, and no labels at all."""

import io

import numpy as np
from PIL import Image
from pytest import fixture, mark
from rich.console import Console

from models.views.ablations import Ablation
from pipeline.certificates import Leads, Threat
from pipeline.report.plots import _shown, draw_certified_accuracy
from pipeline.report.tables import print_attack, print_summary
from pipeline.runs.manifest import Manifest
from pipeline.scoring.claims import Alert, Claim
from pipeline.scoring.summary import Totals, leads_by_tau

ABLATION = Ablation(kind="column", size=2, stride=1, height=12, width=12)
MANIFEST = Manifest(
    identity={
        "model": {"name": "vit", "num_classes": 5},
        "ablation": {"kind": "column", "size": 2, "stride": 1, "height": 12, "width": 12},
    }
)
SQUARE = Claim("exact", Threat.square(2), 1, 1)
CLAIMS = {
    SQUARE: 30,
    SQUARE._replace(rule="uniform"): 28,
    SQUARE._replace(threat=Threat(area=6)): 20,
    SQUARE._replace(threat=Threat.parse("2of2")): 10,
    SQUARE._replace(top_k=3): 35,
    SQUARE._replace(stride=4): 25,
}


def counted(images=50, unlabelled=0):
    """A tally of images whose claims hold for round numbers of them."""
    right = images - unlabelled
    tally = Totals(images=images, unlabelled=unlabelled, plain_right=right)
    for claim, hits in CLAIMS.items():
        tally.certified[claim] = hits
        tally.certified_right[claim] = min(hits, right)
    tally.smoothed_right[1] = tally.smoothed_right[4] = min(40, right)
    sides = np.array([10, 5, 25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) if right else np.zeros(13, int)
    tally.largest_right = {"exact": sides, "uniform": sides}
    leads = Leads(
        *(np.array(lead)[:right] for lead in ([12, 5, 3, 0], [-4, 2, 4, 6], [6, 1, 0, -3]))
    )
    tally.leads_right[Alert(Threat.square(2), 1)] = leads_by_tau(leads, 12)
    return tally


@fixture
def summary():
    return counted().summary(MANIFEST)


def printed(summary):
    console = Console(file=io.StringIO(), width=120)
    print_summary(summary, console)
    return console.file.getvalue()


def test_every_claim_has_its_line(summary):
    lines = printed(summary).splitlines()
    for words in (
        ("2x2 px", "certified, exact ", "60.0 %", "30/50"),
        ("2x2 px", "certified, uniform ", "28/50"),
        ("area<=6 px", "certified, exact ", "20/50"),
        ("2 of 2x2 px", "certified, exact ", "10/50"),
        ("2x2 px", "certified top 3, exact ", "35/50"),
        ("none", "smoothed, stride 4 ", "40/50"),
        ("2x2 px", "certified, exact, stride 4 ", "25/50"),
    ):
        assert sum(all(word in line for word in words) for line in lines) == 1, words


def test_alerts_are_shown_where_answers_remain(summary):
    text = printed(summary)
    assert "patch 2x2 px" in text
    rows = [line.split("│")[1:-1] for line in text[text.index("Alert") :].splitlines()]
    shown = {
        int(cells[0]): [cell.strip() for cell in cells[1:]] for cells in rows if len(cells) == 4
    }
    # tau = 3: three leads of four reach it, one is kept, and of two the attack stays below.
    assert shown[3] == ["6.0 %", "2.0 %", "4.0 %"]


@mark.parametrize("rule", ["exact", "two-location"])
def test_an_attacked_decision_that_knows_the_patch_says_so(rule):
    share = {"value": 0.5, "low": 0.4, "high": 0.6, "hits": 5, "of": 10}
    attack = {
        "threat": "2x2",
        "rule": rule,
        "images": 10,
        "smoothed_accuracy": share,
        "certified_accuracy": share,
        "empirical_accuracy": None,
        "attacked": {},
    }
    console = Console(file=io.StringIO(), width=160)
    print_attack(attack, console)
    said = console.file.getvalue()
    assert f"certified, {rule}" in said
    assert ("assumes a patch of at most that size" in said) == (rule == "two-location")


def test_curves_are_what_their_words_say():
    """Against the definition, tau by tau."""
    rng = np.random.default_rng(0)
    lead, attack, kept = rng.integers(0, 31, 90), *rng.integers(-30, 31, (2, 90))
    tally = Totals(images=90)
    tally.leads_right[Alert(Threat.square(2), 1)] = leads_by_tau(Leads(lead, attack, kept), 30)
    (curve,) = tally.summary(MANIFEST)["detection"]
    assert curve["tau"] == list(range(1, lead.max() + 1))
    for place, tau in enumerate(curve["tau"]):
        assert curve["clean"][place] == (lead >= tau).sum()
        assert curve["certified_recovery"][place] == (kept >= tau).sum()
        assert curve["certified_detection"][place] == ((lead >= tau) & (attack < tau)).sum()


def test_long_curves_are_thinned_but_exact():
    lead = np.arange(3000)
    tally = Totals(images=3000)
    tally.leads_right[Alert(Threat.square(2), 1)] = leads_by_tau(
        Leads(lead, lead - 9, lead - 9), 3000
    )
    (curve,) = tally.summary(MANIFEST)["detection"]
    assert len(curve["tau"]) == 200
    assert (curve["tau"][0], curve["tau"][-1]) == (1, 2999)
    assert curve["clean"] == [3000 - tau for tau in curve["tau"]]


def test_tallies_add_up():
    once, twice = counted().summary(MANIFEST), counted()
    twice.add(counted())
    summary = twice.summary(MANIFEST)
    assert summary["images"] == 100
    assert summary["certified_accuracy"][0]["value"] == 0.6
    assert summary["largest"]["hits"]["exact"][:2] == [60, 50]
    assert summary["detection"][0]["clean"] == [2 * hits for hits in once["detection"][0]["clean"]]


def test_of_many_alerts_three_patches_are_drawn(summary):
    (curve,) = summary["detection"]
    asked = [{**curve, "threat": f"{side}x{side}"} for side in (10, 3, 2, 5, 1)]
    coarser = [{**curve, "threat": "7x7", "stride": 4}]
    found = _shown({**summary, "detection": asked + coarser})
    assert [shown["threat"] for shown in found] == ["1x1", "3x3", "10x10"]
    assert _shown({**summary, "detection": coarser}) == coarser
    assert _shown({**summary, "detection": asked[:2]}) == [asked[1], asked[0]]


@mark.parametrize("unlabelled", [0, 50])
def test_pictures_show_every_claim(unlabelled):
    summary = counted(unlabelled=unlabelled).summary(MANIFEST)
    width, height = Image.open(io.BytesIO(draw_certified_accuracy(summary, "vit"))).size
    assert (width, height) == (2100, 750)  # two panels
    assert ("no labels" in printed(summary)) == bool(unlabelled)
    one = Image.open(io.BytesIO(draw_certified_accuracy({**summary, "detection": []}, "vit")))
    assert one.size == (1050, 750)
