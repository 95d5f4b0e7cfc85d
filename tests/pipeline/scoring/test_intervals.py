"""Wilson's interval against scipy's, and at its ends."""

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx, raises
from scipy.stats import binomtest

from pipeline.scoring.intervals import Proportion


@given(st.integers(1, 60_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_equals_scipy(case):
    hits, of = case
    theirs = binomtest(hits, of).proportion_ci(method="wilson")
    low, high = Proportion(hits, of).interval()
    assert (low, high) == approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= low <= hits / of <= high <= 1


def test_nothing_counted_has_no_value():
    assert Proportion(0, 0).to_dict() == {
        "hits": 0,
        "of": 0,
        "value": None,
        "low": None,
        "high": None,
    }


def test_impossible_counts_are_refused():
    with raises(ValueError, match="3 of 2"):
        Proportion(3, 2)
