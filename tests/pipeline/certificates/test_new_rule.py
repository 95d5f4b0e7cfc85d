"""A rule is judged as soon as it is registered: CONTRIBUTING's example, and one that lies."""

import re

import pytest

from pipeline.certificates import RULES, Rule
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
