"""The table of mutants: the real source with one fragment replaced.

A fragment that is not found exactly once fails its test, so the table cannot fall out of date in
silence. Left out because they are equivalent, for no case can tell them apart:

- a prediction that wins or loses ties wrongly, as seen by a *rule*: with n_c = n_j every margin is
  negative, since some location touches a view (so it is listed under ``prediction`` only);
- a last location forgotten, as seen by ``uniform``: where there is another, it reaches Delta too;
- an attacker with several patches whose n Delta is not capped at V: neither is ever certified;
- class 0 its own rival where there is no vote at all: class 1 is as weak (the tally's own test
  tells them apart);
- sets of views kept that lie within others, rivals asked that cannot win, sides tried that cannot
  be certified: they cost time alone.

A mutant that crashes is no use here: what must be shown is that a wrong answer would be noticed.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

SAMPLING = "models.views.sampling"
FAMILY = "models.views.family"
ABLATIONS = "models.views.ablations"
MASKS = "models.views.masks"
CERTIFICATES = "pipeline.certificates."
THREATS = "models.views.threats"
VOTES = CERTIFICATES + "votes"
TOUCHED = CERTIFICATES + "touched"
ATTACK_SETS = CERTIFICATES + "attack_sets"
BATCH = CERTIFICATES + "batch"
UNIFORM_RULE = CERTIFICATES + "uniform"
EXACT_RULE = CERTIFICATES + "exact"
RANDOMIZED_RULE = CERTIFICATES + "randomized"
TOP_K = CERTIFICATES + "top_k"
DETECTION = CERTIFICATES + "detection"
RULE = CERTIFICATES + "rule"
RULES = CERTIFICATES + "rules"
LOCATIONS = CERTIFICATES + "locations"
LARGEST = CERTIFICATES + "largest"
SUBSETS = CERTIFICATES + "subsets"
LARGEST_SETS = CERTIFICATES + "largest_sets"
LEADS_OUTSIDE = CERTIFICATES + "leads"
TWO_LOCATION = CERTIFICATES + "two_location"
ONE_LOCATION = CERTIFICATES + "one_location"
DOUBLE_MASKING = CERTIFICATES + "double_masking"
# Every module of the proof, in order of import.
MODULES = (
    SAMPLING,
    FAMILY,
    ABLATIONS,
    MASKS,
    THREATS,
    VOTES,
    TOUCHED,
    BATCH,
    RULE,
    ATTACK_SETS,
    UNIFORM_RULE,
    TOP_K,
    EXACT_RULE,
    RANDOMIZED_RULE,
    LARGEST_SETS,
    LEADS_OUTSIDE,
    TWO_LOCATION,
    ONE_LOCATION,
    DOUBLE_MASKING,
    DETECTION,
    RULES,
    LOCATIONS,
    LARGEST,
    SUBSETS,
)

PREDICTION, UNIFORM, EXACT = ("prediction",), ("uniform",), ("exact",)
BOTH = UNIFORM + EXACT
PLACES, LEADS, SIDES, STRIDES = ("top_k",), ("detection",), ("largest",), ("coarser",)


class Mutant(NamedTuple):
    """A fault put into a module, and the judgements of brute force that must each expose it."""

    module: str
    what: str
    original: str
    mutated: str
    caught_by: tuple[str, ...]


OFFSET, TIE = "- start[None, :]) % length", "self.classes_nk < self.classes_nk[:, :1]"
DELTA = "2 * max_touched_views(batch.ablation, threat)"
MEETS = "return (offset < size) | ((-offset) % length < extent)"
MEETS_NO_WRAP = "gap = first[:, None] - start; return (-extent < gap) & (gap < size)"
KEY = "((starts - ends) << _CLASS_BITS) + label"
LOSING = "reach.counts(batch.prefix(0)) + reach.sizes_l[:, None].astype(batch.dtype)"

MUTANTS = [
    # What a patch touches.
    Mutant(ABLATIONS, "offset +1", OFFSET, "- start[None, :] - 1) % length", BOTH),
    Mutant(ABLATIONS, "offset -1", OFFSET, "- start[None, :] + 1) % length", BOTH),
    Mutant(ABLATIONS, "no wrap", MEETS, MEETS_NO_WRAP, BOTH),
    Mutant(ABLATIONS, "band 1 px longer", "(offset < size)", "(offset <= size)", BOTH),
    Mutant(ABLATIONS, "band 1 px shorter", "(offset < size)", "(offset < size - 1)", BOTH),
    Mutant(ABLATIONS, "patch 1 px larger", "% length < extent", "% length <= extent", BOTH),
    Mutant(ABLATIONS, "patch 1 px smaller", "% length < extent", "% length < extent - 1", BOTH),
    Mutant(ABLATIONS, "patch on its side", "y0, patch.height", "y0, patch.width", BOTH),
    Mutant(FAMILY, "last x forgotten", "patch.width + 1", "patch.width", EXACT),
    Mutant(FAMILY, "last y forgotten", "patch.height + 1", "patch.height", EXACT),
    Mutant(
        TOUCHED, "runs do not wrap", "+= prefix.take([cells]", "+= 0 * prefix.take([cells]", EXACT
    ),
    Mutant(TOUCHED, "run 1 view late", "take(runs.first", "take((runs.first + 1)", EXACT),
    Mutant(TOUCHED, "first row forgotten", "sums[row + 1] +=", "sums[row + 1] += row *", EXACT),
    Mutant(
        TOUCHED,
        "grid turned",
        "sums[row_v + down, column_v + right] = chosen_vn",
        "sums[row_v[::-1] + down, column_v + right] = chosen_vn",
        EXACT,
    ),
    Mutant(
        TOUCHED, "neighbours thought nested", "+ length <= room)", "+ length <= room + 1)", EXACT
    ),
    Mutant(TOUCHED, "runs out of order", "[np.argsort(self.first[kept])]", "[::-1]", EXACT),
    # What the attacker may do.
    Mutant(
        THREATS,
        "highest rectangle forgotten",
        "range(1, min(views.height, area) + 1)",
        "range(1, min(views.height, area))",
        BOTH,
    ),
    Mutant(THREATS, "areas are wide", "range(1, min(views.height, area) + 1)", "(1,)", BOTH),
    Mutant(
        THREATS,
        "areas 1 px less wide",
        "area // height)]",
        "area // height - (height == 1))]",
        EXACT,
    ),
    Mutant(
        ATTACK_SETS, "only one rectangle", "return tuple(kept)", "return tuple(kept[:1])", EXACT
    ),
    Mutant(ATTACK_SETS, "wider is within", ".any(axis=1).all()", ".any()", EXACT),
    Mutant(UNIFORM_RULE, "one patch of several", "threat.count * one", "one", UNIFORM),
    Mutant(UNIFORM_RULE, "smallest rectangle", "one = max(", "one = min(", UNIFORM),
    Mutant(ATTACK_SETS, "no unions", "costs_ln[self.runs :].max(axis=0)", "0 * costs_ln[0]", EXACT),
    Mutant(ATTACK_SETS, "no disjoint pairs", "while span <=", "while 0 > span <=", EXACT),
    Mutant(
        ATTACK_SETS,
        "one run twice",
        "pair_ln += costs_ln.take(at",
        "pair_ln += costs_ln.take(at * 0",
        EXACT,
    ),
    Mutant(ATTACK_SETS, "the nearest partner only", "self.end[at] - span", "self.first[at]", EXACT),
    Mutant(ATTACK_SETS, "partner 1 run late", 'end, side="left"),', 'end, side="right"),', EXACT),
    Mutant(
        ATTACK_SETS,
        "partners overlap",
        'first + views, side="right"',
        'first + 2 * views, side="right"',
        EXACT,
    ),
    Mutant(ATTACK_SETS, "unions too short", 'side="left") - 1', 'side="left") - 2', EXACT),
    Mutant(
        ATTACK_SETS,
        "unions do not wrap",
        "np.append(end, end + views)",
        "np.append(end, end)",
        EXACT,
    ),
    # Who is predicted, and who can overtake.
    Mutant(BATCH, "high class wins", KEY, KEY.replace("+ label", "- label"), PREDICTION),
    Mutant(
        BATCH, "fewest votes win", "(starts - ends)", "(ends - starts - 999)", PREDICTION + BOTH
    ),
    Mutant(BATCH, "rival loses ties", TIE, "self.classes_nk < 0", BOTH),
    Mutant(BATCH, "rival wins ties", TIE, "self.classes_nk >= 0", BOTH),
    Mutant(BATCH, "ties turned round", TIE, "self.classes_nk > self.classes_nk[:, :1]", BOTH),
    Mutant(BATCH, "not the lowest voteless", "image[label == place]", "image", BOTH),
    # Rules.
    Mutant(UNIFORM_RULE, "Delta - 1", DELTA, f"{DELTA} + 2", UNIFORM),
    Mutant(UNIFORM_RULE, "Delta + 1", DELTA, f"{DELTA} - 2", UNIFORM),
    Mutant(UNIFORM_RULE, "Delta once", DELTA, DELTA[4:], UNIFORM),
    Mutant(UNIFORM_RULE, "second rival", "leads_kn[1]", "leads_kn[-1]", UNIFORM),
    Mutant(EXACT_RULE, "|I| forgotten", LOSING, "reach.counts(batch.prefix(0))", EXACT),
    Mutant(EXACT_RULE, "|I| twice", LOSING, f"{LOSING} * 2", EXACT),
    Mutant(EXACT_RULE, "touched votes stay", LOSING, "0 * " + LOSING, EXACT),
    Mutant(
        EXACT_RULE,
        "fed votes stay",
        "costs_ln[:, some]) - rivals_ln",
        "costs_ln[:, some]) - 0 * rivals_ln",
        EXACT,
    ),
    Mutant(
        EXACT_RULE,
        "only the runner-up",
        "range(1, batch.ranks):\n            leads_n",
        "range(1, 2):\n            leads_n",
        EXACT,
    ),
    Mutant(
        EXACT_RULE, "rivals given up early", "leads_n - most_n <", "leads_n + 1 - most_n <", EXACT
    ),
    Mutant(
        EXACT_RULE,
        "images mixed up",
        "margins_n[images] = np",
        "margins_n[: len(images)] = np",
        EXACT,
    ),
    Mutant(
        EXACT_RULE,
        "last rival alone",
        "np.minimum(margins_n[images], ",
        "(lambda _, m: m)(0, ",
        EXACT,
    ),
    Mutant(ATTACK_SETS, "easiest location", "costs_ln.max(axis=0)", "costs_ln.min(axis=0)", EXACT),
    Mutant(BATCH, "voteless ranks skipped", "clip(voted_n, 1,", "clip(voted_n - 1, 0,", EXACT),
    Mutant(BATCH, "tie forgotten", " - self.ranked.wins_ties_nk", "", BOTH),
    # Random families.
    Mutant(SAMPLING, "largest digests", ")[:count]", ")[-count:]", BOTH),
    Mutant(SAMPLING, "x before y", '{yx[0]}/{yx[1]}"', '{yx[1]}/{yx[0]}"', BOTH),
    Mutant(SAMPLING, "in order of digests", "sorted(sorted(offsets", "(sorted(offsets", EXACT),
    Mutant(SAMPLING, "seed forgotten", 'f"{seed}/{yx[0]}', 'f"0/{yx[0]}', BOTH),
    Mutant(
        ABLATIONS,
        "cells transposed",
        "row_v * len(xs) + column_v",
        "row_v + column_v * len(ys)",
        BOTH,
    ),
    Mutant(ABLATIONS, "every cell taken", "cells = np.zeros(", "cells = np.ones(", UNIFORM),
    Mutant(TOUCHED, "empty cells vote", "sums = np.zeros(", "sums = np.ones(", EXACT),
    # Vote sets.
    Mutant(
        BATCH,
        "runs end late",
        "np.minimum(np.append(starts[1:], sorted_ns.size), ",
        "np.maximum(0, ",
        PREDICTION + BOTH,
    ),
    Mutant(BATCH, "only the first slot", "in votes_tvn[1:]", "in votes_tvn[1:1]", EXACT),
    Mutant(BATCH, "last slot forgotten", "in votes_tvn[1:]", "in votes_tvn[1:-1]", EXACT),
    Mutant(BATCH, "all slots must agree", "chosen_vn |= votes_vn", "chosen_vn &= votes_vn", EXACT),
    # Top-k.
    Mutant(TOP_K, "one place less", "range(batch.ranks)", "range(batch.ranks - 1)", PLACES),
    Mutant(TOP_K, "ties lost", "kept_ln + 1 - strength_ln", "kept_ln + 2 - strength_ln", PLACES),
    Mutant(TOP_K, "ties won", "kept_ln + 1 - strength_ln", "kept_ln - strength_ln", PLACES),
    Mutant(
        TOP_K,
        "debts repaid",
        "np.maximum(kept_ln + 1 - strength_ln, 0)",
        "kept_ln + 1 - strength_ln",
        PLACES,
    ),
    Mutant(
        TOP_K,
        "a view feeds one class",
        "needed_ln - batch.slots * sizes_l1",
        "needed_ln - sizes_l1",
        PLACES,
    ),
    Mutant(
        TOP_K, "a view feeds a class twice", "deficit_ln - sizes_l1)", "needed_ln - 99)", PLACES
    ),
    Mutant(TOP_K, "margin of one more", "spare_ln.min(axis=0) - 1", "spare_ln.min(axis=0)", PLACES),
    Mutant(TOP_K, "easiest location", "spare_ln.min(axis=0)", "spare_ln.max(axis=0)", PLACES),
    Mutant(TOP_K, "own votes stay", "counts_n - reach", "counts_n - 0 * reach", PLACES),
    Mutant(
        TOP_K,
        "rivals' votes stay",
        "astype(batch.dtype) - reach.counts(batch.prefix(rank",
        "astype(batch.dtype) - 0 * reach.counts(batch.prefix(rank",
        PLACES,
    ),
    Mutant(
        TOP_K,
        "the class its own rival",
        "voted_nk & (ranked.classes_nk != classes_n[:, None])",
        "voted_nk",
        PLACES,
    ),
    Mutant(TOP_K, "voteless all above", "place_k1 < below_n, 1", "place_k1 < below_n, 0", PLACES),
    Mutant(TOP_K, "voteless all below", "below_n + above_n, 0", "below_n + above_n, 1", PLACES),
    Mutant(TOP_K, "rivals given up early", "strongest_kln[-1].min", "strongest_kln[0].min", PLACES),
    Mutant(
        TOP_K,
        "one rival only",
        "place_ln[:, images] = higher_ln",
        "place_ln[:, images] = higher_ln; break",
        PLACES,
    ),
    # Detection.
    Mutant(DETECTION, "runner-up unseen", "- np.maximum(kept_ln, second_ln)", "- kept_ln", LEADS),
    Mutant(
        DETECTION, "prediction unseen", "- np.maximum(kept_ln, second_ln)", "- second_ln", LEADS
    ),
    Mutant(DETECTION, "|I| forgotten", "sizes_l1 + first_ln", "first_ln", LEADS),
    Mutant(DETECTION, "|I| not lost", "kept_ln - first_ln - sizes_l1", "kept_ln - first_ln", LEADS),
    Mutant(DETECTION, "easiest location", "attack_ln.max(axis=0)", "attack_ln.min(axis=0)", LEADS),
    Mutant(DETECTION, "easiest to keep", "kept_ln.min(axis=0)", "kept_ln.max(axis=0)", LEADS),
    Mutant(
        DETECTION, "lead over the last", "- counts_nk[:, 1], *np", "- counts_nk[:, -1], *np", LEADS
    ),
    Mutant(
        DETECTION, "second not kept", "np.minimum(first, strength_ln)", "strength_ln * 0", LEADS
    ),
    Mutant(
        DETECTION, "rivals given up early", "second_ln.min(axis=0)", "first_ln.min(axis=0)", LEADS
    ),
    Mutant(
        DETECTION,
        "votes stay",
        "astype(batch.dtype) - reach.counts(batch.prefix(0))",
        "astype(batch.dtype) - 0 * reach.counts(batch.prefix(0))",
        LEADS,
    ),
    # Every size, and fewer views.
    Mutant(
        LARGEST,
        "one size more",
        "side_n[certified_n] += step",
        "side_n[certified_n] += step + 1",
        SIDES,
    ),
    Mutant(
        LARGEST,
        "one bit forgotten",
        "range(limit.bit_length())",
        "range(1, limit.bit_length())",
        SIDES,
    ),
    Mutant(LARGEST, "limit a size lower", "if side <= limit", "if side < limit", SIDES),
    Mutant(
        LARGEST,
        "images mixed up",
        "certified_n[images] = margins_n",
        "certified_n[: len(images)] = margins_n",
        SIDES,
    ),
    Mutant(LARGEST, "zero is not enough", "margins_n >= 0", "margins_n > 0", SIDES),
    Mutant(
        SUBSETS,
        "neighbours' votes",
        "return votes[:, places], wanted",
        "return votes[:, places - 1], wanted",
        STRIDES,
    ),
    Mutant(
        SUBSETS,
        "views of the family",
        "whole.positions[list(self.chosen)]",
        "whole.positions[: len(self.chosen)]",
        STRIDES,
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
