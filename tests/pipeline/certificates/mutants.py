"""The table of mutants: the real source with one fragment replaced.

A fragment that is not found exactly once fails its test, so the table cannot fall out of date in
silence. Left out because they are equivalent, for no case can tell them apart:

- a prediction that wins or loses ties wrongly, as seen by a *rule*: with n_c = n_j every margin is
  negative, since some location touches a view (so it is listed under ``prediction`` only);
- a last location forgotten, as seen by ``uniform``: where there is another, it reaches Delta too;
- only the runner-up as a rival of ``uniform``: most votes first and lowest class first on ties is
  the order of n_j + [j < c] up to equality.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

GEOMETRY = "models.ablation"
COUNTS = "pipeline.certificates.counts"
UNIFORM_RULE = "pipeline.certificates.uniform"
EXACT_RULE = "pipeline.certificates.exact"

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
    Mutant(GEOMETRY, "patch on its side", "y0, patch.height", "y0, patch.width", BOTH),
    Mutant(GEOMETRY, "last x forgotten", "patch.width + 1", "patch.width", EXACT),
    Mutant(GEOMETRY, "last y forgotten", "patch.height + 1", "patch.height", EXACT),
    # Who is predicted, and who can overtake.
    Mutant(COUNTS, "high class wins", "(label, -votes,", "(-label, -votes,", PREDICTION),
    Mutant(COUNTS, "fewest votes win", "(label, -votes,", "(label, votes,", PREDICTION + BOTH),
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
    Mutant(EXACT_RULE, "runs do not wrap", WRAPPED, f"{WRAPPED} * (view < len(votes))", EXACT),
    Mutant(EXACT_RULE, "run 1 view late", "take(self.first", "take((self.first + 1)", EXACT),
    Mutant(
        EXACT_RULE,
        "grid turned",
        "reshape(*self.grid, -1)",
        "reshape(*self.grid[::-1], -1).swapaxes(0, 1)",
        EXACT,
    ),
    Mutant(EXACT_RULE, "images mixed up", "margins_n[order] =", "margins_n[:] =", EXACT),
]


def load(mutant: Mutant | None) -> dict[str, ModuleType]:
    """Fresh copies of the modules of the proof, in order of import, one of them mutated."""
    modules = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in (GEOMETRY, COUNTS, UNIFORM_RULE, EXACT_RULE):
            path = Path(importlib.util.find_spec(name).origin)
            source = path.read_text(encoding="utf-8")
            if mutant and mutant.module == name:
                assert source.count(mutant.original) == 1, f"{mutant.original!r} in {name}"
                source = source.replace(mutant.original, mutant.mutated)
            modules[name] = ModuleType(name)
            patch.setitem(sys.modules, name, modules[name])
            exec(compile(source, str(path), "exec"), modules[name].__dict__)
    return modules
