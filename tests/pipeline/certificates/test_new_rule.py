"""A rule is judged as soon as it is registered: CONTRIBUTING's example, and one that lies."""

import re

import numpy as np
import pytest

from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.certificates import RULES, Rule, Threat, VoteBatch
from pipeline.certificates.rules import drawing_order, uncovered
from pipeline.certificates.touched import Locations
from tests.conftest import REPOSITORY
from tests.pipeline.certificates.agreement import check
from tests.pipeline.certificates.bruteforce import Geometry
from tests.pipeline.certificates.cases import some_votes


class Lenient(Rule):
    """A rule that forgets the attacker."""

    name, guarantee = "lenient", "Nothing."

    def margins(self, batch, threat):
        return batch.leads_kn[1] - 1


CASE = Geometry("column", 1, 1, 1, 8, 1, 2)


@pytest.fixture
def example():
    """The namespace that the example of CONTRIBUTING defines."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert code.count("\n") <= 30
    names: dict = {}
    exec(code, names)
    return names


def test_the_example_is_sound(example, monkeypatch):
    rule = example["STRICT"]
    monkeypatch.setitem(RULES, rule.name, rule)
    found = check(CASE, some_votes(8, 3, limit=2000), 3)
    assert 0 < found[rule.name] < found["uniform"]


def test_a_rule_that_lies_is_found_out(monkeypatch):
    monkeypatch.setitem(RULES, "lenient", Lenient())
    with pytest.raises(AssertionError, match="lenient certifies what can change"):
        check(CASE, some_votes(8, 3, limit=2000), 3)


def test_the_exact_margin_is_the_smallest_of_its_locations():
    batch = VoteBatch(some_votes(8, 3, limit=200), Ablation(**CASE.ablation), 3)
    where = Locations.of(batch.ablation, Patch(1, 2))
    margins_sn, _ = RULES["exact"].margins_at(batch, where)
    expected = RULES["exact"].margins(batch, Threat(Patch(1, 2)))
    assert margins_sn.min(axis=0).tolist() == expected.tolist()
    assert RULES["uniform"].margins_at(batch, where) is None
    assert [name for name, rule in RULES.items() if rule.by_location] == ["exact", "two-location"]


def test_a_new_rule_changes_no_colour_and_hides_no_other(monkeypatch):
    order = drawing_order()
    assert order[:2] == ["exact", "uniform"]
    monkeypatch.setitem(RULES, "lenient", Lenient())
    assert drawing_order() == [*order, "lenient"]
    assert drawing_order([RULES["lenient"], RULES["uniform"]]) == ["uniform", "lenient"]
    assert uncovered(["uniform", "exact", "lenient"]) == {"exact", "lenient"}
    assert uncovered(["uniform", "randomized"]) == {"uniform", "randomized"}


def test_a_rule_says_what_it_cannot_certify():
    views = Ablation(kind="block", size=2, stride=1, height=6, width=6)
    for name, threat, top_k, message in [
        ("uniform", Threat.square(2), 2, "choose exact"),
        ("randomized", Threat.square(2), 2, "choose top_k=1"),
        ("exact", Threat.parse("2of2"), 1, "use the uniform rule"),
        ("exact", Threat.square(2), 3, "choose 1 to 2 places"),
        ("uniform", Threat.square(7), 1, "must be at least 1x1 and fit"),
    ]:
        with pytest.raises(ValueError, match=message):
            RULES[name].check(views, threat, 3, top_k)
    RULES["uniform"].check(views, Threat.parse("2of2"), 3)


def test_part_of_a_part_of_a_batch_has_its_own_margins():
    votes, views = some_votes(8, 3, limit=60), Ablation(**CASE.ablation)
    part = VoteBatch(votes, views, 3).take(np.arange(5, 45)).take(np.array([7, 0, 30]))
    fresh = VoteBatch(votes[[12, 5, 35]], views, 3)
    for rule in ("exact", "uniform"):
        ask = RULES[rule].margins
        assert ask(part, Threat(Patch(1, 2))).tolist() == ask(fresh, Threat(Patch(1, 2))).tolist()
