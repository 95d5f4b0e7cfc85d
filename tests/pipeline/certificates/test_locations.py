"""Margins by location against brute force, against the exact rule, and mutants that must fail."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.certificates import RULES, exact, exact_margins, locations, votes, witness
from tests.pipeline.certificates.locations_judge import CASES, judge


def test_every_location_against_every_rewriting():
    judge(locations, witness)
    flips = [witness.witnesses(v, Ablation(**g.ablation), *_rest(g, c)) for g, v, c in CASES]
    margins = np.concatenate([found.margins_n for found in flips])
    # Both verdicts were judged, many times.
    assert (margins < 0).sum() > 100
    assert (margins >= 0).sum() > 60


def _rest(geometry, classes):
    return Patch(geometry.patch_height, geometry.patch_width), classes


@pytest.mark.parametrize("kind", ["column", "row", "block"])
def test_minimum_is_the_exact_margin_whatever_the_chunks(kind, monkeypatch):
    ablation = Ablation(kind=kind, size=5, stride=3, height=28, width=28)
    cast = np.random.default_rng(0).integers(0, 7, (40, len(ablation)))
    cast[:20] = np.where(np.arange(len(ablation)) % 4, 3, cast[:20])
    patch = Patch(4, 6)
    expected = exact_margins(cast, ablation, patch, 9)
    whole = locations.breaking(cast, ablation, patch, 9)
    assert 0 < whole.counts_yx.max() < len(cast)
    monkeypatch.setattr(votes, "CHUNK_NUMBERS", 4000)
    parts = list(locations.location_margins(cast, ablation, patch, 9))
    assert len(parts) > 1
    assert [part.start for part, _ in parts[1:]] == [part.stop for part, _ in parts[:-1]]
    margins = np.concatenate([found.margins_nyx for _, found in parts])
    np.testing.assert_array_equal(margins.min(axis=(1, 2)), expected)
    found = witness.witnesses(cast, ablation, patch, 9)
    np.testing.assert_array_equal(found.margins_n, expected)
    np.testing.assert_array_equal((margins < 0).sum(axis=0), whole.counts_yx)
    parted = locations.breaking(cast, ablation, patch, 9)
    np.testing.assert_array_equal(parted.counts_yx, whole.counts_yx)
    assert parted.anywhere == whole.anywhere == (expected < 0).sum()


def test_blocks_at_stride_1_fit_in_memory():
    ablation = Ablation(kind="block", size=75, stride=1, height=224, width=224)
    cast = np.random.default_rng(0).integers(0, 3, (1, len(ablation)))
    ((_, found),) = locations.location_margins(cast, ablation, Patch.square(32), 1000)
    assert found.margins_nyx.shape == (1, 193, 193)
    assert locations.touched_counts(ablation, Patch.square(32)).max() == 106**2


def test_no_image_is_no_error():
    ablation = Ablation(kind="column", size=2, stride=1, height=8, width=8)
    none = np.empty((0, 8), np.int64)
    assert list(locations.location_margins(none, ablation, Patch(2, 2), 3)) == []
    assert len(witness.witnesses(none, ablation, Patch(2, 2), 3).margins_n) == 0
    counted = locations.breaking(none, ablation, Patch(2, 2), 3)
    assert (counted.images, counted.anywhere, counted.counts_yx.tolist()) == (0, 0, [[0] * 7])


EXACT_MUTANTS = {
    "tie forgotten": (
        "strength_sn = hopes_n[images]",
        "strength_sn = ranked.counts_nk[images, rank]",
    ),
    "|I| forgotten": ("left_sn -= touched", "left_sn -= 0 * touched"),
    "|I| twice": ("left_sn -= touched", "left_sn -= 2 * touched"),
    "touched votes stay": (
        "- touched.counts(batch.prefix(0))",
        "- 0 * touched.counts(batch.prefix(0))",
    ),
    "rival's touched votes stay": (
        "- inside_sn",
        "- 0 * inside_sn",
    ),
    "voteless rivals skipped": (
        "rank <= batch.rivals_n) & (hopes",
        "rank < batch.rivals_n) & (hopes",
    ),
    "only the runner-up": ("range(1, batch.ranks):\n        # One", "range(1, 2):\n        # One"),
    "later rival on ties": ("strength_sn > strongest_sn", "strength_sn >= strongest_sn"),
    "rivals given up early": ("hopes_n > strongest", "hopes_n - 1 > strongest"),
    "given up at one location": ("strongest_sn.min(axis=0)", "strongest_sn.max(axis=0)"),
    "rival not kept": ("stronger_sn, ranked.classes_nk[images, rank]", "stronger_sn, 0"),
}
LOCATIONS_MUTANTS = {
    "locations turned": ("row_y[:, None] *", "row_y[::-1][:, None] *"),
    "locations mirrored": ("column_x[None, :]", "column_x[None, ::-1]"),
    "zero margin breaks": ("margins_sn < 0", "margins_sn <= 0"),
    "everywhere, not anywhere": ("breaks_sn.any(axis=0)", "breaks_sn.all(axis=0)"),
}
WITNESS_MUTANTS = {
    "easiest location": ("[order].argmin(", "[order].argmax("),
    "first set, not location": ("order = np.argsort(first_s)", "order = np.arange(len(first_s))"),
    "set stays full": ("after[touched_nv] = EMPTY", "pass"),
    "rewrites the rest": ("np.where(touched_nv, r", "np.where(~touched_nv, r"),
    "touches either way": (" & columns[xs", " | columns[xs"),
    "rewrites in place": ("np.array(votes)", "votes"),
}


def mutated(module: ModuleType, original: str, replacement: str) -> ModuleType:
    """A copy of the module with one fragment replaced."""
    path = Path(module.__file__)
    source = path.read_text(encoding="utf-8")
    assert source.count(original) == 1, f"{original!r} is there {source.count(original)} times"
    mutant = ModuleType("mutant")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, mutant.__name__, mutant)
        exec(compile(source.replace(original, replacement), str(path), "exec"), mutant.__dict__)
    return mutant


@pytest.mark.parametrize("name", EXACT_MUTANTS)
def test_mutant_of_the_exact_rule_fails(name, monkeypatch):
    mutant = mutated(exact, *EXACT_MUTANTS[name])
    monkeypatch.setitem(RULES, "exact", mutant.Exact())
    with pytest.raises(AssertionError):
        judge(locations, witness)


@pytest.mark.parametrize("name", LOCATIONS_MUTANTS)
def test_mutant_of_the_locations_fails(name):
    with pytest.raises(AssertionError):
        judge(mutated(locations, *LOCATIONS_MUTANTS[name]), witness)


@pytest.mark.parametrize("name", WITNESS_MUTANTS)
def test_mutant_of_the_witnesses_fails(name):
    with pytest.raises(AssertionError):
        judge(locations, mutated(witness, *WITNESS_MUTANTS[name]))


def test_a_place_outside_the_image_is_refused():
    ablation = Ablation(kind="column", size=2, stride=1, height=8, width=9)
    for place in ([0, 8], [-1, 0], [7, 0]):
        with pytest.raises(ValueError, match="leaves the 8x9 px image"):
            witness.touched_at(ablation, Patch(2, 2), np.array([[0, 0], place]))
