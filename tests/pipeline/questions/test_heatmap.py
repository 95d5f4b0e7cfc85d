"""Breaking places: counted again image by image, stored, and drawn."""

import io

import numpy as np
import pytest
from PIL import Image
from stored_runs import write_run

from models.ablation import Ablation, Patch
from pipeline.certificates import exact_margins
from pipeline.certificates.threats import Threat
from pipeline.config import ConfigError
from pipeline.questions import open_run
from pipeline.questions.heatmap import breaking_maps, write_maps
from pipeline.questions.heatmap_picture import draw_maps

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


@pytest.mark.parametrize("kind", KINDS)
def test_counts_place_by_place(kind, tmp_path):
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


def test_without_labels_all_images_count(tmp_path):
    run, votes = stored(tmp_path, "column", [None] * 20)
    (found,) = breaking_maps(run, PATCHES[:1])
    assert found.shown is found.wrong
    assert found.shown.images == len(votes)
    assert found.worst == (0, int(found.wrong.counts_yx[0].argmax()))
    draw_maps([found])


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
