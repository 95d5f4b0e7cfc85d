"""What the page's parts count, against plain counting; and the pictures, pixel by pixel."""

import base64
import io
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from models.preprocess import Preprocess
from models.views.family import Patch
from models.views.masks import Masks, Placement
from models.views.threats import Threat
from pipeline.analysis import open_run
from pipeline.analysis.outcomes import outcomes_of
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.report.page.chapter import Missing, chapter_of, cost_of, focus_of
from pipeline.report.page.charts import series_of
from pipeline.report.page.gallery import data_uri, gallery_of, hidden
from pipeline.report.page.margins import detection_curve, margin_counts
from pipeline.report.page.writing import page_of
from pipeline.runs.manifest import Execution, Manifest
from pipeline.scoring.certify import certify_votes
from pipeline.scoring.claims import Claim
from pipeline.scoring.source import notes
from pipeline.sources.base import SourceOptions
from pipeline.sources.listing import list_images
from tests.conftest import png, random_images, write_shard
from tests.pipeline.report.page.page_runs import (
    CLASSES,
    FAMILIES,
    IMAGES,
    MASKS,
    Page,
    certified_run,
    made_up_votes,
    masked_run,
)

LOOK = Preprocess(resize=None, crop=12, interpolation="nearest", mean=(0,) * 3, std=(1,) * 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """40 images: 5 has an error, 0 has no label."""
    _, labels = made_up_votes(1)
    return certified_run(tmp_path_factory.mktemp("parts"), labels=[None, *labels[1:]])


def claim(run, side: int, rule: str = "exact") -> Claim:
    return Claim(rule, Threat.square(side), stride=run.ablation.stride)


def test_focus_is_the_smallest_the_middle_and_the_largest(run):
    found = focus_of(run.manifest, run.summary)
    assert [str(threat) for threat in found.threats] == ["1x1", "2x2", "3x3"]
    assert (str(found.claim.threat), found.claim.rule) == ("2x2", "exact")
    entries = run.summary["certified_accuracy"]
    only = {"certified_accuracy": [e for e in entries if e["rule"] == "uniform"][1:]}
    found = focus_of(run.manifest, only)
    assert [str(threat) for threat in found.threats] == ["2x2", "3x3"]
    assert found.claim == claim(run, 3, "uniform")
    with pytest.raises(ConfigError, match="no certificate against a square"):
        focus_of(run.manifest, {"certified_accuracy": []})


@pytest.mark.parametrize("rule", ["exact", "uniform"])
def test_margins_are_those_of_the_votes(run, rule):
    found = margin_counts(outcomes_of(run), claim(run, 2, rule))
    margins, labels = run.margins(rule, 2), run.votes.labels
    predictions = np.array([np.bincount(cast).argmax() for cast in run.votes.votes])
    right = labels.accept(predictions)
    groups = (right, ~right & labels.known, ~labels.known)
    for counts, group in zip(found.counts, groups, strict=True):
        expected = [int((margins[group] == value).sum()) for value in found.values]
        assert counts.tolist() == expected
    assert found.counts.sum() == IMAGES - 1
    assert found.errors == 1
    assert set(found.values) == set(margins)
    with pytest.raises(ConfigError, match="no margin"):
        margin_counts(outcomes_of(run), claim(run, 7))


def test_the_trade_off_is_that_of_the_summary(tmp_path):
    before = certified_run(tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    fresh = detection_curve(before, before.summary, claim(before, 2))
    # The question leaves no trace.
    assert files == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    certify_votes(before.store, ClaimsConfig(patch=(2,), detect=True))
    after = open_run(tmp_path)
    assert after.summary["detection"] == [fresh]
    assert detection_curve(after, after.summary, claim(after, 2)) == fresh


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_gallery_shows_the_worst_place(kind, tmp_path):
    run = certified_run(tmp_path, kind, unit_images=7)
    found = gallery_of(outcomes_of(run), claim(run, 2), "class {}".format)
    margins = run.margins("exact", 2)
    predictions = np.array([np.bincount(cast).argmax() for cast in run.votes.votes])
    right = run.votes.labels.accept(predictions)
    assert found.certified == (right & (margins >= 0)).sum()
    assert found.broken == (right & (margins < 0)).sum()
    assert len(found.images) == min(6, found.certified) + min(6, found.broken)
    (everywhere,) = [part for _, part in run.location_margins(Patch.square(2))]
    for shown in found.images:
        image = list(run.votes.ids).index(shown.image_id)
        assert shown.certified == (margins[image] >= 0)
        assert shown.margin == margins[image]
        y, x = shown.y or 0, shown.x or 0
        assert (shown.y is None, shown.x is None) == (kind == "column", kind == "row")
        assert everywhere.margins_nyx[image, y, x] == margins[image]
        assert shown.rival == f"class {everywhere.rivals_nyx[image, y, x]}"
        assert shown.prediction == f"class {predictions[image]}"
        row, column = run.ablation.touched_axes(Patch.square(2))
        assert shown.touched == (row[y] & column[x]).sum()


def test_the_gallery_of_masks_shows_two_places_that_disagree(tmp_path):
    run = masked_run(tmp_path)
    asked = Claim("two-location", Threat.square(2), assumes=Threat.square(2))
    found = gallery_of(outcomes_of(run), asked, "class {}".format)
    margins = run.margins("two-location", 2)
    assert (found.certified, found.broken) == ((margins >= 0).sum(), (margins < 0).sum())
    assert len(found.images) == 12
    touched_yxv = MASKS.touched(Patch.square(2)).reshape(11, 11, -1)
    for shown in found.images:
        image = list(run.votes.ids).index(shown.image_id)
        assert shown.certified == (margins[image] >= 0)
        both = ~touched_yxv[shown.y, shown.x] & ~touched_yxv[shown.second]
        left = np.bincount(run.votes.votes[image][both], minlength=CLASSES)
        answer, rival = (int(word.split()[1]) for word in (shown.prediction, shown.rival))
        assert shown.margin == left[answer] - left[rival] - (rival < answer)
        # By what these two places leave alone, the answer stands or falls.
        assert (left.argmax() == answer) == shown.certified
        assert both[shown.view]
        if not shown.certified:
            assert run.votes.votes[image][shown.view] == rival
        for place in ((shown.y, shown.x), shown.second):
            assert not MASKS.visible(shown.view)[place]


def test_a_mask_run_never_speaks_of_a_vote(tmp_path):
    run = masked_run(tmp_path)
    page = Page(page_of([run]))
    for said in ("smoothed", "ablation", "no labels"):
        assert said not in page.text.lower()
    two, one = (
        next(e for e in run.summary["certified_accuracy"] if e["rule"] == rule)
        for rule in ("two-location", "one-location")
    )
    assert "the decision assumes a patch of at most 2x2 px" in page.text
    cells = {cell for row in page.rows for cell in row}
    for entry in (one, two):
        clean = f"clean {100 * entry['clean_accuracy']['value']:.1f}\N{NO-BREAK SPACE}%"
        assert any(clean in cell and f"{entry['hits']} of 40" in cell for cell in cells)
    assert any(f"{one['alerts']} alerts" in cell for cell in cells)
    assert [svg for svg in page.svgs if "What a view hides" in svg]
    assert any(f"2x2 px: {100 * two['value']:.1f} %" in svg for svg in page.svgs)
    assert "Some of the 45 views" in page.text
    assert "Sound certificate, which assumes a patch of at most the size in question." in page.text
    assert "Assumes a patch of at most a size" in page.text


EARLY = {"theta": None, "gaps": False, "early_exit": True}


def test_views_that_were_not_asked_break_no_place(tmp_path):
    page, every = (
        Page(page_of([masked_run(tmp_path / name, **more)]))
        for name, more in (("early", {"voting": EARLY}), ("all", {}))
    )
    places = "Not shown: run .*: its views were asked only as far as .* vote with --all-views"
    said = ("A margin below 0 says only that", "outside which all views were asked")
    assert re.search(places, page.text)
    assert not any("uncertified because of each place" in svg for svg in page.svgs)
    assert all(words in page.text for words in said)
    assert not any(words in every.text for words in said)
    assert any("uncertified because of each place" in svg for svg in every.svgs)


def test_places_name_the_images_of_each_patch(tmp_path):
    places = Placement(8, (0, 2, 4))
    masks = Masks.placed(
        height=12,
        width=12,
        placements=[(places, places)],
        pairs=True,
        covers=[Patch.square(6)],
    )
    run = masked_run(tmp_path, patch=(1, 6), ablation=masks, plain=[0] * IMAGES)
    maps = chapter_of(run, "A").places
    counts = [found.right.images for found in maps]
    assert len(set(counts)) == 2
    page = Page(page_of([run]))
    shown = [
        f"{count} correctly classified images ({found.patch})"
        for count, found in zip(counts, maps, strict=True)
    ]
    assert f"Share of {', '.join(shown)} that a patch at each place" in page.text


@pytest.fixture(scope="module")
def of_gaps(tmp_path_factory):
    """One rule, in three ways: every view speaks, those of some gap, or for a larger patch."""
    out = tmp_path_factory.mktemp("gaps")
    run = masked_run(out, rule=("one-location",), voting={"theta": None, "gaps": True})
    asked = {"patch": (2,), "rule": ("one-location",)}
    certify_votes(run.store, ClaimsConfig(**asked, tau=(0.25, 0.75)))
    certify_votes(run.store, ClaimsConfig(patch=(1,), rule=("one-location",), assume="2"))
    return open_run(out)


def test_the_focus_is_on_the_decision_of_all_views(of_gaps):
    entries = of_gaps.summary["certified_accuracy"]
    assert {entry["tau"] for entry in entries} == {None, 0.25, 0.75}
    found = focus_of(of_gaps.manifest, of_gaps.summary)
    assert (found.claim.tau, found.claim.assumes) == (None, Threat.square(2))
    only = [entry for entry in entries if entry["tau"]]
    assert focus_of(of_gaps.manifest, {"certified_accuracy": only}).claim.tau == 0.75


def test_claims_of_other_gaps_and_assumptions_keep_apart(of_gaps):
    names = list(series_of(chapter_of(of_gaps, "A")))
    assert set(names) == {
        "one-location",
        "one-location, assumes a patch of at most 2x2 px",
        "one-location, tau 0.25",
        "one-location, tau 0.75",
    }
    page = page_of([of_gaps])
    for name in names:
        assert name in page.decode()
    (head,) = [row for row in Page(page).rows if row[0].strip() == "class"]
    assert len(head) == len(set(head))
    assert {"clean, 2x2 px", "2x2 px, tau 0.75"} <= set(head)


def test_the_lead_names_the_gap_of_its_claim(of_gaps, tmp_path):
    said = ", and views of a gap up to tau 0.75 have no say"
    assert said not in Page(page_of([of_gaps])).text
    shutil.copytree(of_gaps.out, tmp_path / "out")
    run = open_run(tmp_path / "out")
    entries = [entry for entry in run.summary["certified_accuracy"] if entry["tau"]]
    run.store.write_summary(
        {**run.summary, "certified_accuracy": entries}, run.store.proof(run.manifest)
    )
    assert f"assumes a patch of at most 2x2 px{said}." in Page(page_of([open_run(run.out)])).text


def test_patches_on_the_source_are_explained(tmp_path):
    """Their share of the grid is no share of the picture, and per cent are no pixels."""
    run = masked_run(
        tmp_path,
        patch=("source:2%", "source:50"),
        preprocess=LOOK.to_dict(),
        sizes=[(40, 48)] * IMAGES,
    )
    text = Page(page_of([run])).text
    assert "no patch of source:2% gets another answer" in text
    assert "no patch of source:50 px gets another answer" in text
    assert "% px" not in text
    for note in notes(run.summary["certified_accuracy"], (), (12, 12)):
        assert f"{note}." in text
    assert "images are not certified because the views leave no decision" in text
    assert "unless it is named source:" in text


def test_what_a_view_hides_is_seen_in_its_picture():
    image = np.full((12, 12, 3), 200, np.uint8)
    picture = hidden(MASKS, 1, image, (4, 4))
    visible = MASKS.visible(1)
    assert (picture[visible] == 200).all()
    dropped = ~visible.reshape(3, 4, 3, 4).any(axis=(1, 3)).repeat(4, 0).repeat(4, 1)
    assert dropped.any()
    assert (picture[dropped] > 200).all()
    assert (picture[~visible & ~dropped] < 50).all()
    assert hidden(MASKS, None, image, None) is image


@pytest.mark.parametrize(("scale", "token"), [(3, 4), (3, 2), (7, 4)])
def test_a_token_need_not_be_whole_pixels_of_the_attacker(scale, token):
    views = replace(MASKS, pixel_scale=scale)
    picture = hidden(views, 1, np.full((12, 12, 3), 200, np.uint8), (token, token))
    side = 12 * scale
    assert picture.shape == (side, side, 3)
    visible = views.visible(1)
    for y, x in np.ndindex(side, side):
        if visible[y // scale, x // scale]:
            expected = 200
        else:
            top, left = y // token * token, x // token * token
            shown = any(
                visible[row // scale, column // scale]
                for row in range(top, top + token)
                for column in range(left, left + token)
            )
            # Black where a kept token is hidden; pale where the token is left out.
            expected = 40 if shown else 244
        assert (picture[y, x] == expected).all()


def test_enlarged_pixels_of_small_pictures_stay_what_they_are():
    enlarged = random_images(1, 32)[0].repeat(7, axis=0).repeat(7, axis=1)
    header, data = data_uri(enlarged, 7).split(",")
    assert header == "data:image/png;base64"
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    np.testing.assert_array_equal(found, enlarged)


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
    """A run of images that are there, on a grid of which a pixel is three model pixels."""
    folder = tmp_path_factory.mktemp("pictured")
    images = random_images(IMAGES, 12)
    names = {f"{n:03d}": png(image) for n, image in enumerate(images)}
    shard = write_shard(folder / "shard-000.tar", {f"{k}.png": v for k, v in names.items()})
    preprocess = Preprocess(
        resize=None, crop=12, interpolation="nearest", mean=(0, 0, 0), std=(1, 1, 1), pixel_scale=3
    )
    fingerprint = list_images(str(shard), SourceOptions(), None).fingerprint
    run = certified_run(
        folder / "out",
        data={"kind": "webdataset", "fingerprint": fingerprint, "image_column": None},
        preprocess=preprocess.to_dict(),
        ablation=replace(FAMILIES["column"], pixel_scale=3),
    )
    return run, shard, images


def test_pictures_are_the_pixels_that_were_voted_on(pictured):
    run, shard, images = pictured
    chapter = chapter_of(run, "A", data=str(shard))
    assert chapter.gallery.pictureless == ""
    for shown in chapter.gallery.images:
        header, data = shown.source.split(",")
        assert header == "data:image/png;base64"
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        np.testing.assert_array_equal(found, images[int(shown.image_id[-3:])])


def test_large_pictures_are_small_files():
    photograph = random_images(1, 224)[0]
    source = data_uri(photograph)
    assert source.startswith("data:image/webp")
    assert len(source) < 40_000


def test_pictures_that_are_others_or_nowhere_are_not_shown(pictured, tmp_path):
    run, _, images = pictured
    changed = write_shard(tmp_path / "shard-000.tar", {"000.png": png(images[1])})
    for data, said in (
        (str(changed), "not the files that the run voted on"),
        (str(tmp_path / "away.tar"), "away.tar"),
        (None, "images/*.tar"),
    ):
        gallery = chapter_of(run, "A", data=data).gallery
        assert said in gallery.pictureless
        assert "`patchcert report --data ...`" in gallery.pictureless
        assert not any(shown.source for shown in gallery.images)
    assert chapter_of(run, "A", images=False).gallery.pictureless == "no pictures were asked for"


def test_cost(run):
    def cost(device: str, **facts):
        identity = run.manifest.identity | {"numerics": {"device": device, "dtype": "float32"}}
        execution = Execution(**{"images": 100, "voting_seconds": 1800.0, "cpus": 4} | facts)
        return cost_of(Manifest(identity=identity, execution=execution))

    on_cpu = cost("cpu")
    assert on_cpu.images_per_second == pytest.approx(100 / 1800)
    assert on_cpu.votes_per_second == pytest.approx(100 * len(run.ablation) / 1800)
    assert (on_cpu.cpu_hours, on_cpu.gpu_hours) == (2.0, None)
    on_gpu = cost("cuda", actors=3)
    assert (on_gpu.cpu_hours, on_gpu.gpu_hours) == (None, 1.5)
    assert cost("cuda").gpu_hours is None
    with pytest.raises(ConfigError, match="recorded no time"):
        cost("cpu", voting_seconds=None)


def test_a_refused_part_is_missing_and_damage_is_not(tmp_path):
    run = certified_run(tmp_path)
    asked_nothing = {**run.summary, "certified_accuracy": []}
    run.store.write_summary(asked_nothing, run.store.proof(run.manifest))
    chapter = chapter_of(open_run(tmp_path), "A")
    for part in (chapter.focus, chapter.margins, chapter.places, chapter.gallery):
        assert isinstance(part, Missing)
        assert "no certificate against a square patch" in part.reason
    next((tmp_path / "votes").rglob("unit-00001.parquet")).unlink()
    with pytest.raises(RuntimeError, match="have no votes yet"):
        chapter_of(open_run(tmp_path), "A")
