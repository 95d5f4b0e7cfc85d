"""The table of mutants: the real source with one fragment replaced.

A fragment that is not found exactly once fails its test, so the table cannot fall out of date in
silence. Left out because they are equivalent, for no case can tell them apart:

- a prediction that wins or loses ties wrongly, as seen by a *rule*: with n_c = n_j every margin is
  negative, since some location touches a view (so it is listed under ``prediction`` only);
- a last location forgotten, as seen by ``uniform``: where there is another, it reaches Delta too;
- only the runner-up as a rival of ``uniform``: most votes first and lowest class first on ties is
  the order of n_j + [j < c] up to equality;
- class 0 its own rival where there is no vote at all: class 1 is as weak (the tally's own test
  tells them apart).

A mutant that crashes is no use here: what must be shown is that a wrong answer would be noticed.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

SAMPLING = "models.sampling"
GEOMETRY = "models.geometry"
VIEWS = "models.views"
ABLATION = "models.ablation"
VOTES = "pipeline.certificates.votes"
COUNTS = "pipeline.certificates.counts"
TOUCHED = "pipeline.certificates.touched"
UNIFORM_RULE = "pipeline.certificates.uniform"
EXACT_RULE = "pipeline.certificates.exact"
RANDOMIZED_RULE = "pipeline.certificates.randomized"
# Every module of the proof, in order of import.
MODULES = (
    SAMPLING,
    GEOMETRY,
    VIEWS,
    ABLATION,
    VOTES,
    COUNTS,
    TOUCHED,
    UNIFORM_RULE,
    EXACT_RULE,
    RANDOMIZED_RULE,
)

PREDICTION, UNIFORM, EXACT = ("prediction",), ("uniform",), ("exact",)
BOTH = UNIFORM + EXACT


class Mutant(NamedTuple):
    """A fault put into a module, and the judgements of brute force that must each expose it."""

    module: str
    what: str
    original: str
    mutated: str
    caught_by: tuple[str, ...]


OFFSET, TIE = "- start[None, :]) % length", "self.classes_nk < self.classes_nk[:, :1]"
DELTA, WRAPPED = "2 * ablation.max_touched(patch)", "votes[view % len(votes)]"
MEETS = "return (offset < size) | ((-offset) % length < extent)"
MEETS_NO_WRAP = "gap = first[:, None] - start; return (-extent < gap) & (gap < size)"
INSIDE = "- touched.votes(chosen_vn.astype(dtype))"

MUTANTS = [
    # What a patch touches.
    Mutant(GEOMETRY, "offset +1", OFFSET, "- start[None, :] - 1) % length", BOTH),
    Mutant(GEOMETRY, "offset -1", OFFSET, "- start[None, :] + 1) % length", BOTH),
    Mutant(GEOMETRY, "no wrap", MEETS, MEETS_NO_WRAP, BOTH),
    Mutant(GEOMETRY, "band 1 px longer", "(offset < size)", "(offset <= size)", BOTH),
    Mutant(GEOMETRY, "band 1 px shorter", "(offset < size)", "(offset < size - 1)", BOTH),
    Mutant(GEOMETRY, "patch 1 px larger", "% length < extent", "% length <= extent", BOTH),
    Mutant(GEOMETRY, "patch 1 px smaller", "% length < extent", "% length < extent - 1", BOTH),
    Mutant(ABLATION, "patch on its side", "y0, patch.height", "y0, patch.width", BOTH),
    Mutant(ABLATION, "last x forgotten", "patch.width + 1", "patch.width", EXACT),
    Mutant(ABLATION, "last y forgotten", "patch.height + 1", "patch.height", EXACT),
    # Who is predicted, and who can overtake.
    Mutant(COUNTS, "high class wins", "(label, -run_votes,", "(-label, -run_votes,", PREDICTION),
    Mutant(
        COUNTS, "fewest votes win", "(label, -run_votes,", "(label, run_votes,", PREDICTION + BOTH
    ),
    Mutant(COUNTS, "rival loses ties", TIE, "self.classes_nk < 0", BOTH),
    Mutant(COUNTS, "rival wins ties", TIE, "self.classes_nk >= 0", BOTH),
    Mutant(COUNTS, "ties turned round", TIE, "self.classes_nk > self.classes_nk[:, :1]", BOTH),
    Mutant(COUNTS, "voteless never tie", "= np.zeros((num_i", "= -99 + np.zeros((num_i", BOTH),
    Mutant(COUNTS, "not the lowest voteless", "image[label == place]", "image", BOTH),
    # Rules.
    Mutant(UNIFORM_RULE, "Delta - 1", DELTA, f"{DELTA} - 2", UNIFORM),
    Mutant(UNIFORM_RULE, "Delta + 1", DELTA, f"{DELTA} + 2", UNIFORM),
    Mutant(UNIFORM_RULE, "Delta once", DELTA, "ablation.max_touched(patch)", UNIFORM),
    Mutant(EXACT_RULE, "|I| forgotten", "- sizes_l[:, None]", "", EXACT),
    Mutant(EXACT_RULE, "|I| twice", "- sizes_l[:, None]", "- 2 * sizes_l[:, None]", EXACT),
    Mutant(EXACT_RULE, "touched votes stay", INSIDE, f"- 0 * {INSIDE[2:]}", EXACT),
    Mutant(
        EXACT_RULE, "easiest location", "margins_ln.min(axis=0)", "margins_ln.max(axis=0)", EXACT
    ),
    Mutant(EXACT_RULE, "tie forgotten", " + wins_ties_kn[rank, :images]", "", EXACT),
    Mutant(EXACT_RULE, "voteless ranks skipped", "voted_n >= rank", "voted_n > rank", EXACT),
    Mutant(EXACT_RULE, "only the runner-up", "range(1, len(classes_kn))", "range(1, 2)", EXACT),
    Mutant(TOUCHED, "runs do not wrap", WRAPPED, f"{WRAPPED} * (view < len(votes))", EXACT),
    Mutant(TOUCHED, "run 1 view late", "take(self.first", "take((self.first + 1)", EXACT),
    Mutant(
        TOUCHED,
        "grid turned",
        "reshape(*self.shape, -1)",
        "reshape(*self.shape[::-1], -1).swapaxes(0, 1)",
        EXACT,
    ),
    Mutant(EXACT_RULE, "images mixed up", "margins_n[order] =", "margins_n[:] =", EXACT),
    # Random families.
    Mutant(SAMPLING, "largest digests", ")[:count]", ")[-count:]", BOTH),
    Mutant(SAMPLING, "x before y", '{yx[0]}/{yx[1]}"', '{yx[1]}/{yx[0]}"', BOTH),
    Mutant(SAMPLING, "in order of digests", "sorted(sorted(offsets", "(sorted(offsets", EXACT),
    Mutant(SAMPLING, "seed forgotten", 'f"{seed}/{yx[0]}', 'f"0/{yx[0]}', BOTH),
    Mutant(
        GEOMETRY,
        "cells transposed",
        "row_v * len(xs) + column_v",
        "row_v + column_v * len(ys)",
        BOTH,
    ),
    Mutant(GEOMETRY, "every cell taken", "cells = np.zeros(", "cells = np.ones(", UNIFORM),
    Mutant(TOUCHED, "empty cells vote", "cells = np.zeros(", "cells = np.ones(", EXACT),
    Mutant(
        TOUCHED, "views pushed together", "cells[self.cells_v] =", "cells[: self.views] =", EXACT
    ),
    # Vote sets.
    Mutant(
        COUNTS,
        "runs end late",
        "np.minimum(np.append(starts[1:], sorted_ns.size), ",
        "np.maximum(0, ",
        PREDICTION + BOTH,
    ),
    Mutant(EXACT_RULE, "only the first slot", "in votes_tvn[1:]", "in votes_tvn[1:1]", EXACT),
    Mutant(EXACT_RULE, "last slot forgotten", "in votes_tvn[1:]", "in votes_tvn[1:-1]", EXACT),
    Mutant(
        EXACT_RULE, "all slots must agree", "chosen_vn |= votes_vn", "chosen_vn &= votes_vn", EXACT
    ),
]


def load(mutant: Mutant | None) -> dict[str, ModuleType]:
    """Fresh copies of the modules of the proof, in order of import, one of them mutated."""
    modules = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in MODULES:
            path = Path(importlib.util.find_spec(name).origin)
            source = path.read_text(encoding="utf-8")
            if mutant and mutant.module == name:
                assert source.count(mutant.original) == 1, f"{mutant.original!r} in {name}"
                source = source.replace(mutant.original, mutant.mutated)
            modules[name] = ModuleType(name)
            patch.setitem(sys.modules, name, modules[name])
            exec(compile(source, str(path), "exec"), modules[name].__dict__)
    return modules
