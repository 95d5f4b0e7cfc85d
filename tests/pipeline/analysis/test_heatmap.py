"""Breaking places: counted again image by image, stored, and drawn."""

import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from models.views.ablations import Ablation
from models.views.family import Patch
from models.views.masks import Masks, Placement
from models.views.threats import Threat
from pipeline.analysis import heatmap, open_run
from pipeline.analysis.heatmap import (
    breaking_maps,
    images_shown,
    threats_to_draw,
    write_maps,
)
from pipeline.certificates import exact_margins
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.report.analysis_tables import print_maps
from pipeline.report.plots import _label, _title, draw_maps
from pipeline.scoring.certify import certify_votes
from tests.pipeline.analysis.stored_runs import write_run

KINDS = {
    "column": {"size": 2, "stride": 1},
    "row": {"size": 3, "stride": 2},
    "block": {"size": 3, "stride": 2},
}
PATCHES = (Threat(Patch(2, 2)), Threat(Patch(1, 3)))


def stored(tmp_path, kind: str, labels: list | None = None):
    ablation = Ablation(kind=kind, height=8, width=9, **KINDS[kind])
    rng = np.random.default_rng(0)
    votes = np.where(
        rng.random((20, len(ablation))) < 0.7 * rng.random((20, 1)),
        rng.integers(0, 4, (20, len(ablation))),
        1,
    )
    truth = [1, 1, 1, 0] * 5 if labels is None else labels
    run_id = write_run(tmp_path, votes, truth, ablation=ablation, errors=(2, 19), unit_images=6)
    return open_run(tmp_path, run_id), np.delete(votes, (2, 19), axis=0)


@pytest.mark.parametrize("batch_votes", [1, 1 << 21], ids="{} votes at once".format)
@pytest.mark.parametrize("kind", KINDS)
def test_counts_place_by_place(kind, batch_votes, tmp_path, monkeypatch):
    monkeypatch.setattr(heatmap, "_BATCH_VOTES", batch_votes)
    run, votes = stored(tmp_path, kind)
    labels = np.delete([1, 1, 1, 0] * 5, (2, 19))
    right = np.array([np.bincount(v).argmax() for v in votes]) == labels
    maps = breaking_maps(run, PATCHES)
    write_maps(maps)
    rows = run.table("locations").to_pylist()
    for found, threat in zip(maps, PATCHES, strict=True):
        patch, ablation = threat.patch, run.ablation
        touched_lv = ablation.touched(patch)
        # Everything that a patch there touches says the same other class.
        broken = np.zeros((len(votes), len(touched_lv)), bool)
        for image, cast in enumerate(votes):
            for place, touched_v in enumerate(touched_lv):
                for rival in range(4):
                    after = np.bincount(np.where(touched_v, rival, cast), minlength=4).argmax()
                    broken[image, place] |= after != np.bincount(cast).argmax()
        np.testing.assert_array_equal(found.right.counts_yx.ravel(), broken[right].sum(axis=0))
        np.testing.assert_array_equal(found.wrong.counts_yx.ravel(), broken[~right].sum(axis=0))
        uncertified = exact_margins(votes, ablation, patch, 4) < 0
        assert found.right.anywhere == uncertified[right].sum()
        assert (found.right.images, found.wrong.images) == (right.sum(), (~right).sum())
        mine = [row for row in rows if row["threat"] == str(threat)]
        places = [
            (None if kind == "column" else y, None if kind == "row" else x)
            for y, x in ablation.locations(patch).tolist()
        ]
        assert [(row["y"], row["x"]) for row in mine] == places
        assert [row["uncertified_right"] for row in mine] == broken[right].sum(axis=0).tolist()
        assert [row["uncertified"] for row in mine] == broken.sum(axis=0).tolist()
        assert {(row["images"], row["images_right"]) for row in mine} == {(18, right.sum())}


@pytest.mark.parametrize("kind", ["row", "block"])
def test_picture(kind, tmp_path):
    run, _ = stored(tmp_path, kind)
    picture = Image.open(io.BytesIO(draw_maps(breaking_maps(run, PATCHES)))).convert("RGB")
    assert min(picture.size) > 400
    assert len(picture.getcolors(2**24)) > 50


MASKS = Masks.placed(
    height=8,
    width=9,
    placements=[(Placement.covering(8, 2, 2), Placement.covering(9, 2, 2))],
    pairs=True,
    covers=[Patch.square(2)],
)


def _less(one: tuple, other: tuple) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def masked(tmp_path, **more):
    """A run of mask pairs: images of many right labels, with plain predictions of their own."""
    rng = np.random.default_rng(1)
    votes = np.where(
        rng.random((24, len(MASKS))) < 0.5 * rng.random((24, 1)) ** 2,
        rng.integers(0, 3, (24, len(MASKS))),
        1,
    )
    run_id = write_run(
        tmp_path,
        votes,
        [1, 1, 0] * 8,
        ablation=MASKS,
        plain=[1, 2, 0] * 8,
        unit_images=6,
        **more,
    )
    return open_run(tmp_path, run_id), votes


@pytest.mark.parametrize("side", [1, 2])
def test_masks_break_where_no_witness_holds_the_place(side, tmp_path):
    run, votes = masked(tmp_path)
    certify_votes(run.store, ClaimsConfig(patch=(side,), assume="2", mlflow="none"))
    run = open_run(tmp_path, run.run_id)
    (found,) = breaking_maps(run, [Threat.square(side)])
    touched_lv, sets = (
        MASKS.touched(Patch.square(side)),
        set(map(tuple, MASKS.touched(Patch.square(2)))),
    )
    # The decision looks at the largest sets alone.
    assumed_sv = np.array([s for s in sets if not any(_less(s, other) for other in sets)])

    def phi(labels):
        return int(np.bincount(labels, minlength=3).argmax())

    broken, answers = np.zeros((len(votes), len(touched_lv)), bool), []
    for image, cast in enumerate(votes):
        named = [{phi(cast[~s & ~t]) for t in assumed_sv} for s in assumed_sv]
        witness = np.array([len(classes) == 1 for classes in named])
        answer = named[int(witness.argmax())] if witness.any() else {[1, 2, 0][image % 3]}
        answers.append(answer.pop())
        for place, touched_v in enumerate(touched_lv):
            holds = (touched_v <= assumed_sv).all(axis=1)
            broken[image, place] = not (witness & holds).any()
    right = np.array(answers) == [1, 1, 0] * 8
    np.testing.assert_array_equal(found.right.counts_yx.ravel(), broken[right].sum(axis=0))
    np.testing.assert_array_equal(found.wrong.counts_yx.ravel(), broken[~right].sum(axis=0))
    assert found.right.counts_yx.shape == (8 - side + 1, 9 - side + 1)
    assert 0 < found.right.anywhere < found.right.images < len(votes)
    (entry,) = [one for one in run.summary["certified_accuracy"] if one["rule"] == "two-location"]
    assert entry["hits"] == found.right.images - found.right.anywhere
    assert entry["clean_accuracy"]["hits"] == found.right.images
    assert draw_maps([found]).startswith(b"\x89PNG")


def test_masks_alone_have_no_places(tmp_path):
    votes = np.ones((4, len(MASKS.masks)), int)
    run_id = write_run(tmp_path, votes, [1] * 4, ablation=MASKS.one_mask_views)
    run = open_run(tmp_path, run_id)
    assert threats_to_draw(run.manifest, certify_votes(run.store, ClaimsConfig()).summary) == []
    with pytest.raises(ConfigError, match="vote on --views mask-pair"):
        breaking_maps(run, [Threat.square(2)])


def test_places_are_refused_where_not_all_views_were_asked(tmp_path):
    """A set with a view outside it that was not asked is no witness: places would be counted so."""
    run, _ = masked(tmp_path, voting={"theta": None, "gaps": False, "early_exit": True})
    summary = certify_votes(run.store, ClaimsConfig(patch=(2,), mlflow="none")).summary
    assert threats_to_draw(run.manifest, summary) == []
    with pytest.raises(ConfigError, match=rf"{run.run_id}.*vote with --all-views"):
        breaking_maps(run, [Threat.square(2)])


def test_each_patch_is_a_share_of_its_own_right_answers(tmp_path):
    """A decision that knows the patch answers anew for each of them."""
    # No place of the narrow patch is hidden by the middle mask alone, and one of the wide one is.
    masks = Masks.placed(
        height=8,
        width=9,
        placements=[(Placement(5, (0, 3)), Placement(5, (0, 2, 4)))],
        pairs=True,
        covers=[Patch(2, 3)],
    )
    rng = np.random.default_rng(1)
    noise = rng.random((24, len(masks))) < 0.5 * rng.random((24, 1))
    votes = np.where(noise, rng.integers(0, 3, noise.shape), 1)
    run_id = write_run(tmp_path, votes, [1] * 24, ablation=masks, plain=[0] * 24)
    maps = breaking_maps(open_run(tmp_path, run_id), [Threat(Patch(1, 1)), Threat(Patch(1, 3))])
    narrow, wide = maps
    assert narrow.right.images != wide.right.images
    of = " correctly classified images"
    shown = f"{narrow.right.images}{of} (1x1 px), {wide.right.images}{of} (1x3 px)"
    assert images_shown(maps) == shown
    assert shown in _title(maps)
    console = Console(file=io.StringIO(), width=200)
    print_maps(maps, console)
    lines = console.file.getvalue().splitlines()
    assert f"{shown}, uncertified because of a place" in " ".join(" ".join(lines).split())
    for found in maps:
        count = int(found.right.counts_yx.max())
        (line,) = [line for line in lines if line.strip().startswith(f"{found.patch} ")]
        assert f" {count} ({100 * count / found.right.images:.1f} %) " in line


def test_the_decision_is_that_of_the_certificates_however_the_patch_is_written(tmp_path):
    run, _ = masked(tmp_path)
    certify_votes(run.store, ClaimsConfig(patch=("1%",), assume="2", mlflow="none"))
    run = open_run(tmp_path, run.run_id)
    (found,) = breaking_maps(run, [Threat.parse("1%"), Threat.square(1)])
    assert found.assumes == Threat.square(2)
    (entry,) = [one for one in run.summary["certified_accuracy"] if one["rule"] == "two-location"]
    assert entry["hits"] == found.right.images - found.right.anywhere
    assert found.label == "1x1 px, assumes a patch of at most 2x2 px"
    assert _label(found).startswith(found.label)
    console = Console(file=io.StringIO(), width=200)
    print_maps([found], console)
    assert found.label in console.file.getvalue()
    (own,) = breaking_maps(run, [Threat.square(2)])
    assert own.label == "2x2 px"


def test_without_labels_all_images_count(tmp_path):
    run, votes = stored(tmp_path, "column", [None] * 20)
    (found,) = breaking_maps(run, PATCHES[:1])
    assert found.shown is found.wrong
    assert found.shown.images == len(votes)
    assert found.worst == (0, int(found.wrong.counts_yx[0].argmax()))
    draw_maps([found])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([None] * 20, "images (no label is known)"),
        ([3] * 20, "images (none is classified correctly)"),
        ([1] * 20, "correctly classified images"),
    ],
)
def test_which_images_count_is_said(tmp_path, labels, said):
    """That all are wrong is another thing than that no label is known."""
    run, _ = stored(tmp_path, "column", labels)
    maps = breaking_maps(run, PATCHES[:1])
    console = Console(file=io.StringIO(), width=200)
    print_maps(maps, console)
    assert f"{maps[0].shown.images} {said}, uncertified" in console.file.getvalue()


def test_which_patches_a_certified_run_draws(tmp_path, monkeypatch):
    run, votes = stored(tmp_path, "block")
    claims = ClaimsConfig(patch=(3, "2x5", 1, "area:4", "2of1", 2), rule=("uniform",))
    summary = certify_votes(run.store, claims).summary
    drawn = threats_to_draw(run.manifest, summary)
    assert list(map(str, drawn)) == ["1x1", "2x2", "3x3", "2x5"]
    claims = ClaimsConfig(patch=tuple(range(1, 9)))
    summary = certify_votes(run.store, claims, overwrite=True).summary
    assert [threat.side for threat in threats_to_draw(run.manifest, summary)] == [1, 2, 3, 5, 6, 8]
    monkeypatch.setattr(heatmap, "_MOST_IMAGES", 17)
    assert threats_to_draw(run.manifest, summary) == []
    monkeypatch.undo()
    drawn = {"draws": votes.shape[1], "seed": 0}
    other = write_run(tmp_path, votes, [1] * 18, ablation=run.ablation, randomized=drawn)
    assert threats_to_draw(open_run(tmp_path, other).manifest, summary) == []


def test_a_run_of_unreadable_images(tmp_path):
    """Certifying it draws nothing; asking for the map says why there is none."""
    ablation, votes = (
        Ablation(kind="row", height=8, width=9, size=3, stride=2),
        np.ones((8, 4), int),
    )
    broken = write_run(tmp_path, votes, [1] * 8, ablation=ablation, errors=range(8))
    run = open_run(tmp_path, broken)
    summary = certify_votes(run.store, ClaimsConfig(patch=(2,))).summary
    assert threats_to_draw(run.manifest, summary) == []
    with pytest.raises(ConfigError, match="no image could be voted on"):
        breaking_maps(run, PATCHES)
    partly = write_run(tmp_path, votes, [1] * 8, ablation=ablation, errors=range(5), model="small")
    (found,) = breaking_maps(open_run(tmp_path, partly), PATCHES[:1])
    assert (found.right.images, found.wrong.images) == (3, 0)


def test_a_deleted_run_leaves_no_places(tmp_path):
    run, _ = stored(tmp_path, "column")
    write_maps(breaking_maps(run, PATCHES))
    run.store.delete()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_has_no_place_is_refused(tmp_path):
    run, votes = stored(tmp_path, "column")
    for threat, said in (
        (Threat(area=4), "one rectangle of a given shape"),
        (Threat(Patch(2, 2), count=2), "one rectangle of a given shape"),
        (Threat.square(9), "choose a smaller --patch"),
    ):
        with pytest.raises(ConfigError, match=said):
            breaking_maps(run, [threat])
    drawn = write_run(
        tmp_path, votes, [1] * 18, ablation=run.ablation, randomized={"draws": 9, "seed": 0}
    )
    with pytest.raises(ConfigError, match="drawn at random"):
        breaking_maps(open_run(tmp_path, drawn), PATCHES)
