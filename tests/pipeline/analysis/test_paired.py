"""Paired statistics against published examples, against scipy, and by simulation."""

from math import comb

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.analysis.comparison import Paired

# Fagerland, Lydersen & Laake, "Recommended tests and confidence intervals for paired binomial
# proportions" (2014) and "Statistical Analysis of Contingency Tables" (2017, chapter 8); their
# difference is first minus second. The exact p-values are those of the same authors' "The McNemar
# test for binary matched-pairs data" (2013).
BENTUR = Paired(both=1, only_first=1, only_second=7, neither=12)
CAVO = Paired(both=59, only_first=6, only_second=16, neither=80)


@pytest.mark.parametrize(
    ("table", "difference", "low", "high", "p_value"),
    [(BENTUR, -0.286, -0.507, -0.026, 0.0703), (CAVO, -0.0621, -0.1186, -0.0046, 0.0525)],
)
def test_published_examples(table, difference, low, high, p_value):
    digits = len(str(low)) - 3
    assert round(-table.difference, digits) == difference
    found = table.interval()
    assert (round(-found[1], digits), round(-found[0], digits)) == (low, high)
    assert round(table.p_value(), 4) == p_value


def test_exact_test_is_the_binomial_one():
    for first, second in np.random.default_rng(0).integers(0, 40, (50, 2)).tolist():
        table = Paired(5, first, second, 9)
        differ = first + second
        expected = binomtest(first, differ).pvalue if differ else 1.0
        assert table.p_value() == pytest.approx(expected, abs=1e-12)
        tail = sum(comb(differ, k) for k in range(min(first, second) + 1))
        assert table.p_value() == pytest.approx(min(1, 2 * tail / 2**differ))


def test_swapping_the_two_mirrors_everything():
    for counts in np.random.default_rng(1).integers(0, 30, (50, 4)).tolist():
        table, mirrored = Paired(*counts), Paired(counts[0], counts[2], counts[1], counts[3])
        low, high = table.interval()
        assert -1 <= low <= table.difference <= high <= 1
        assert mirrored.interval() == pytest.approx((-high, -low))
        assert mirrored.p_value() == pytest.approx(table.p_value())


def test_edges():
    assert Paired(0, 0, 0, 0).interval() is None
    assert Paired(0, 0, 0, 0).difference is None
    assert Paired(0, 0, 0, 0).p_value() == 1.0
    for same in (Paired(10, 0, 0, 0), Paired(0, 0, 0, 10), Paired(5, 0, 0, 5)):
        low, high = same.interval()
        assert low < 0 < high
        assert same.p_value() == 1.0
    assert Paired(0, 10, 0, 0).interval()[0] == pytest.approx(-1)
    with pytest.raises(ValueError, match="never below 0"):
        Paired(1, -1, 0, 0)


@pytest.mark.parametrize("shares", [(0.5, 0.1, 0.05, 0.35), (0.02, 0.02, 0.06, 0.9)])
def test_interval_covers_as_often_as_it_says(shares):
    truth = shares[2] - shares[1]
    draws = np.random.default_rng(2).multinomial(150, shares, size=3000)
    intervals = [Paired(*draw).interval() for draw in draws.tolist()]
    covered = np.mean([low <= truth <= high for low, high in intervals])
    assert 0.94 <= covered <= 0.98
