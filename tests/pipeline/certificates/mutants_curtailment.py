"""Mutants of the certificates of unfinished votes; brute force must expose each.

Left out because they are equivalent: a screen by the uniform rule that lets more images through,
which costs time alone.
"""

from mutants import CURTAILMENT, PARTIAL, Mutant

_FOREGONE = "self.cast.leads_kn[1] >= self.missing_n"
_LEAST_UNIFORM = "poll.cast.leads_kn[1] - poll.missing_n - lost"
_LEAST_EXACT = "return least_n - poll.missing_n"
_FED = "lambda reach: reach.counts(poll.cast_prefix)"
ENDS, STOPS = ("ends",), ("stops",)

MUTANTS = [
    Mutant(PARTIAL, "a tie too many", _FOREGONE, f"{_FOREGONE} - 1", STOPS),
    Mutant(PARTIAL, "strict lead", _FOREGONE, _FOREGONE.replace(">=", ">"), STOPS),
    Mutant(PARTIAL, "missing votes forgotten", _FOREGONE, f"{_FOREGONE} * 0", STOPS),
    Mutant(PARTIAL, "the weakest rival", _FOREGONE, _FOREGONE.replace("[1]", "[-1]"), STOPS),
    Mutant(PARTIAL, "filled with class 0", "self.predictions_n[:, None],", "0,", ENDS + STOPS),
    Mutant(PARTIAL, "missing are cast", "self._votes_nv != MISSING", "self._votes_nv > -2", ENDS),
    Mutant(
        PARTIAL,
        "one vote missing less",
        "(votes == MISSING).sum(axis=1)",
        "(votes == MISSING).sum(axis=1) - (votes == MISSING).any(axis=1)",
        ENDS + STOPS,
    ),
    Mutant(
        PARTIAL, "nothing missing", _LEAST_UNIFORM, "poll.cast.leads_kn[1] - lost", ENDS + STOPS
    ),
    Mutant(PARTIAL, "last rival", _LEAST_UNIFORM, _LEAST_UNIFORM.replace("[1]", "[-1]"), ENDS),
    Mutant(PARTIAL, "Delta once", "lost = 2 * most", "lost = most", ENDS + STOPS),
    Mutant(PARTIAL, "nothing missing, exact", _LEAST_EXACT, "return least_n", ENDS + STOPS),
    Mutant(PARTIAL, "missing lost twice", _LEAST_EXACT, f"{_LEAST_EXACT} * 2", ENDS + STOPS),
    Mutant(
        PARTIAL,
        "touched missing votes counted twice",
        _FED,
        "lambda reach: reach.sizes_l[:, None].astype(poll.cast.dtype)",
        ENDS + STOPS,
    ),
    Mutant(PARTIAL, "touched votes not given", _FED, f"{_FED} * 0", ENDS + STOPS),
    Mutant(
        CURTAILMENT,
        "one end for both",
        "rule.margins(poll.filled, threat))",
        "rule.least(poll, threat))",
        ENDS + STOPS,
    ),
    Mutant(
        CURTAILMENT,
        "the last threat alone",
        "open_n &= cheap.decided_n",
        "open_n = poll.foregone_n & cheap.decided_n",
        STOPS,
    ),
    Mutant(
        CURTAILMENT,
        "the prediction forgotten",
        "poll.foregone_n.copy()",
        "np.ones(len(poll), bool)",
        STOPS,
    ),
    Mutant(
        CURTAILMENT,
        "any rule will do",
        "decided_n\n    return",
        "decided_n | True\n    return",
        STOPS,
    ),
    Mutant(
        CURTAILMENT,
        "uniform unheard",
        'if "uniform" in asked.rules:',
        'if "uniform" not in asked.rules:',
        STOPS,
    ),
    Mutant(
        CURTAILMENT,
        "uniform never certifies",
        "cheap.lower_n >= 0",
        "cheap.upper_n >= 0",
        STOPS,
    ),
    Mutant(PARTIAL, "open at 0", "(self.lower_n >= 0)", "(self.lower_n > 0)", STOPS),
    Mutant(PARTIAL, "decided at 0", "(self.upper_n < 0)", "(self.upper_n <= 0)", STOPS),
]
