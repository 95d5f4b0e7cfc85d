"""The images that are attacked, the locations and the rivals."""

import numpy as np
import pytest

from models.views.family import Patch
from models.views.threats import Threat
from pipeline.attack.canvas import Canvas
from pipeline.attack.independent import rewritten, shows_patch, votes_for
from pipeline.attack.placements import place_attempts
from pipeline.attack.selection import (
    Margins,
    choose,
    read_margins,
    read_selected,
    threat_of,
)
from pipeline.certificates import rules
from pipeline.certificates.locations import location_margins
from pipeline.certificates.votes import renumbered
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.runs.defense import Network
from pipeline.runs.resolve import default_patches
from pipeline.scoring.certify import certify_votes
from tests.conftest import TINY_CLASSES, TINY_PREPROCESS, png, write_shard
from tests.pipeline.attack.conftest import IMAGES, UNLABELLED, WRONG
from tests.pipeline.attack.small_runs import PATCH, finished_run, stored_votes

SQUARE = Patch.square(PATCH)
THREAT = Threat(SQUARE)
CANVASES = [Canvas.of(lambda image=image: image, THREAT, TINY_PREPROCESS) for image in IMAGES]


@pytest.fixture(scope="module")
def margins(weak):
    return read_margins(weak, weak.manifest(), THREAT)


def counted(certified: int, opened: int, lost: int = 0) -> Margins:
    """So many images of each kind, shuffled."""
    kinds = np.random.default_rng(0).permutation([0] * certified + [1] * opened + [2] * lost)
    return Margins(
        image_ids=[str(number) for number in range(len(kinds))],
        margins_n=np.where(kinds == 0, 3, -2),
        right_n=kinds != 2,
        images=len(kinds),
        labelled=len(kinds),
    )


def test_the_margins_are_those_of_the_rule_and_the_labels(weak, margins):
    manifest = weak.manifest()
    expected = rules.margins(
        "exact", stored_votes(weak), manifest.defense.views, SQUARE, TINY_CLASSES
    )
    np.testing.assert_array_equal(margins.margins_n, expected)
    assert margins.images == 24
    assert margins.labelled == 23
    wrong = sorted({*WRONG, UNLABELLED})
    assert np.flatnonzero(~margins.right_n).tolist() == wrong
    assert 0 < margins.certified_n.sum() < 24
    np.testing.assert_array_equal(margins.open_n, ~margins.certified_n & margins.right_n)


@pytest.mark.parametrize(
    ("certified", "opened", "images", "expected"),
    [(20, 20, 10, (5, 5)), (20, 20, 7, (4, 3)), (2, 20, 10, (2, 8)), (20, 1, 10, (9, 1)),
     (3, 2, 10, (3, 2)), (0, 9, 4, (0, 4)), (9, 0, 4, (4, 0)), (20, 20, 1, (1, 0))],
)  # fmt: skip
def test_half_of_each_kind_and_more_of_one_where_the_other_is_short(
    certified, opened, images, expected
):
    margins = counted(certified, opened, lost=6)
    chosen = choose(margins, images, seed=1)
    assert len(set(chosen.tolist())) == len(chosen)
    assert sorted(chosen) == chosen.tolist()
    assert (margins.certified_n[chosen].sum(), margins.open_n[chosen].sum()) == expected
    np.testing.assert_array_equal(chosen, choose(margins, images, seed=1))


def test_another_seed_chooses_others():
    margins = counted(50, 50)
    assert (choose(margins, 10, seed=1) != choose(margins, 10, seed=2)).any()


def test_without_an_image_to_attack():
    with pytest.raises(ConfigError, match="no image to attack"):
        choose(counted(0, 0, lost=3), 5, seed=0)


def test_stored_votes_are_those_of_the_chosen(weak, margins):
    selected = read_selected(weak, weak.manifest(), margins, np.array([3, 11, 20]), THREAT)
    votes = stored_votes(weak)
    np.testing.assert_array_equal(selected.votes, votes[[3, 11, 20]])
    assert selected.image_ids == ["s/003", "s/011", "s/020"]
    assert selected.predictions_n.tolist() == [np.bincount(votes[n]).argmax() for n in (3, 11, 20)]


def test_the_patch_is_the_smallest_certified_else_the_papers(weak, copied):
    manifest = weak.manifest()
    assert threat_of(Threat.square(5), weak, manifest).patch == Patch.square(5)
    assert threat_of(None, copied, manifest).patch == Patch.square(
        min(default_patches(manifest.defense.views))
    )
    certify_votes(copied, ClaimsConfig(patch=(16, 12, "4x9")))
    assert threat_of(None, copied, manifest).patch == Patch.square(12)


def test_places_are_the_worst_ones_and_random_ones(weak, margins):
    manifest = weak.manifest()
    selected = read_selected(weak, manifest, margins, np.arange(24), THREAT)
    planned = place_attempts(
        selected, manifest, CANVASES[: len(selected.image_ids)], locations=8, restarts=2, seed=0
    )
    ((_, found),) = location_margins(selected.votes, manifest.defense.views, SQUARE, TINY_CLASSES)
    below = 0
    for image, attempts in enumerate(planned):
        assert len(attempts) == 16
        places = [(a.y, a.x) for a in attempts[:8]]
        assert places == [(a.y, a.x) for a in attempts[8:]]
        assert len(set(places)) == 8
        at = found.margins_nyx[image, 0]
        worst = [at[x] for index, (_, x) in enumerate(places) if index % 4 != 3]
        assert worst == sorted(at)[:6]
        below += sum(at[x] > worst[-1] for index, (_, x) in enumerate(places) if index % 4 == 3)
        assert len({a.seed for a in attempts}) == 16
        for attempt in attempts:
            assert attempt.image == image
            seen = shows_patch(manifest.defense.views, SQUARE, attempt.y, attempt.x)
            np.testing.assert_array_equal(attempt.touched_v, seen)
            kept = np.bincount(selected.votes[image][~seen], minlength=TINY_CLASSES)
            np.testing.assert_array_equal(attempt.kept_c, kept)
    # Random places are seldom among the worst.
    assert below > 24
    assert len({a.y for attempts in planned for a in attempts}) > 50


def test_rivals_are_the_one_that_needs_fewest_votes_and_the_next(weak, margins):
    manifest = weak.manifest()
    selected = read_selected(weak, manifest, margins, np.arange(24), THREAT)
    planned = place_attempts(
        selected, manifest, CANVASES[: len(selected.image_ids)], locations=1, restarts=3, seed=0
    )
    ((_, found),) = location_margins(selected.votes, manifest.defense.views, SQUARE, TINY_CLASSES)
    for image, (first, second, third) in enumerate(planned):
        margin = found.margins_nyx[image, 0, first.x]
        after = rewritten(selected.votes[image], first.touched_v, first.rival)
        flips = votes_for(after, None, TINY_CLASSES).argmax() != first.prediction
        assert flips == (margin < 0)
        assert first.rival == third.rival != second.rival
        assert first.prediction not in (first.rival, second.rival)


def test_classes_that_cannot_be_voted_for_are_no_rivals(tiny_weights, tmp_path):
    samples = {f"{number}.png": png(image) for number, image in enumerate(IMAGES[:6])}
    shard = str(write_shard(tmp_path / "s.tar", samples))
    store = finished_run(tmp_path, shard, tiny_weights, classes="1,2,3,5,6")
    manifest = store.manifest()
    margins = read_margins(store, manifest, THREAT)
    selected = read_selected(store, manifest, margins, np.arange(6), THREAT)
    planned = place_attempts(
        selected, manifest, CANVASES[: len(selected.image_ids)], locations=2, restarts=2, seed=0
    )
    for attempt in (a for attempts in planned for a in attempts):
        assert attempt.rival in (1, 2, 3, 5, 6)
        assert np.flatnonzero(attempt.kept_c < 0).tolist() == [0, 4]


def test_renumbering_keeps_order():
    network = Network(name="x", classes=(2, 5, 6), num_classes=9)
    votes = renumbered(np.array([[5, 2, -1, 6]]), network.classes)
    assert votes.tolist() == [[1, 0, -1, 2]]
    assert len(network.voted_classes) == 3
