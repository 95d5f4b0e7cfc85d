"""The page as a whole: what it holds, that it is whole in itself, that nothing gets into it."""

import base64
import hashlib
import itertools
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from models.networks.weights import WeightsCard
from pipeline.analysis import Run, open_run
from pipeline.analysis.comparison import compare
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.report.page.writing import page_of
from pipeline.scoring.certify import certify_votes
from tests.conftest import REPOSITORY
from tests.pipeline.report.page.page_runs import (
    CLASSES,
    FAMILIES,
    IMAGES,
    Page,
    certified_run,
    made_up_votes,
    write_run,
)

SECTIONS = (
    "Result",
    "How to read this page",
    "Every patch size",
    "Margins",
    "Recovery and detection",
    "Places: where the patch lies",
    "Classes",
    "Images",
    "Cost",
    "Manifest",
)
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">&amp;\u202e"\'$\\frac{'


class Pair(NamedTuple):
    """Two runs over the same images, the page of both and that of the first."""

    runs: list[Run]
    both: bytes
    first: bytes


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Pair:
    out = tmp_path_factory.mktemp("pair")
    runs = [
        certified_run(out, seed=0, model="first"),
        certified_run(out, seed=1, model="second", errors=(5, 6)),
    ]
    return Pair(runs, page_of(runs), page_of(runs[:1]))


def heading(entry) -> str:
    """A threat with its share of the image, as set on the page."""
    return f"{entry['threat']} px, {100 * entry['image_share']:.1f}\N{NO-BREAK SPACE}%"


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_section_says_what_the_run_says(kind, tmp_path):
    _, labels = made_up_votes(1)
    run = certified_run(tmp_path, kind, labels=[None, *labels[1:]])
    page = Page(page_of([run]))
    assert tuple(text for level, text in page.headings if level == 2) == SECTIONS
    assert f", stride {1 if kind == 'column' else 2} px, hidden tokens " in page.text
    (central,) = (
        entry
        for entry in run.summary["certified_accuracy"]
        if (entry["threat"], entry["rule"]) == ("2x2", "exact")
    )
    share = f"{100 * central['value']:.1f} %"
    assert f"Of {IMAGES - 1} images {share}" in page.text
    assert "provably stay so, whatever anyone writes into a patch of 2x2 px" in page.text
    counted = "40 images, 1 with an error (counted as wrong), 1 without a label (left out)."
    assert page.text.count(counted) >= 4
    # Every certificate is a cell with its hits: a row a patch, a column a rule.
    rules = ["exact", "uniform"]
    assert ["patch", *(f"{rule} sound" for rule in rules)] in page.rows
    for entry in run.summary["certified_accuracy"]:
        (row,) = (row for row in page.rows if row[0] == heading(entry))
        cell = row[1 + rules.index(entry["rule"])]
        assert cell.startswith(f"{100 * entry['value']:.1f}\N{NO-BREAK SPACE}%")
        assert f"{entry['hits']} of 39, {entry['images_certified']}\N{NO-BREAK SPACE}kept" in cell
    assert len([row for row in page.rows if row[0].startswith("class ")]) == CLASSES
    assert "Probabilistic certificate, confidence" not in page.text
    assert page.text.count("Sound certificate.") >= 4
    assert "Missing certificates, not successful attacks." in page.text
    for said in (f"2x2 px: {100 * central['value']:.1f} %", "Margins against 2x2 px", "detected"):
        assert any(said in svg for svg in page.svgs), said
    assert "recorded no time of voting" in page.text


def test_headings_descend_step_by_step_and_tables_have_heads(pair):
    for raw in (pair.first, pair.both):
        page = Page(raw)
        levels = [level for level, _ in page.headings]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
        heads = [attributes for tag, attributes in page.tags if tag == "th"]
        assert heads
        assert {attributes["scope"] for attributes in heads} == {"col", "row"}
        assert ("html", {"lang": "en"}) in page.tags
        assert all(page.svgs)


def test_nothing_is_loaded(pair):
    raw, page = pair.both, Page(pair.both)
    targets = {
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster")
    }
    assert targets
    assert all(value.startswith(("data:", "#")) for value in targets)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {t for t, _ in page.tags}
    # References between the parts of a drawing lead to one place each.
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    addresses = re.findall(rb"url\(([^)]*)\)", raw)
    assert {address.decode() for address in addresses} <= {f"#{one}" for one in ids}
    assert {t for t in targets if t.startswith("#")} <= {f"#{one}" for one in ids}
    assert b"@import" not in raw
    assert b"http" not in re.sub(rb"http-equiv", b"", raw)
    assert len(raw) < 500_000


def test_only_its_own_script_may_run(pair):
    raw = pair.first
    (script,) = re.findall(rb"<script>(.*?)</script>", raw, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    (policy,) = (
        attributes["content"]
        for tag, attributes in Page(raw).tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:")


def test_names_of_the_data_stay_text(pair, tmp_path):
    card = WeightsCard(classes=(HOSTILE, "$x", "_hidden", "b"))
    weights = tmp_path / "weights.safetensors"
    save_file({"w": np.zeros(1)}, weights, metadata=card.to_metadata())
    run = certified_run(
        tmp_path / "out",
        model=HOSTILE,
        ids=[f"{HOSTILE}/{n}" for n in range(IMAGES)],
    )
    changed = replace(run.manifest.execution, weights=str(weights), data=f"/nowhere/{HOSTILE}")
    run.store.write_manifest(replace(run.manifest, execution=changed))
    plain = Page(pair.first)
    page = Page(page_of([open_run(tmp_path / "out")]))
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not [name for _, given in page.tags for name in given if name.startswith("on")]
    said = " ".join(HOSTILE.split())
    # As a class, as the ids of the gallery, as a model and as a path.
    assert page.text.count(said) > 12
    assert [said in row[0] for row in page.rows].count(True) == 1


def test_the_same_results_are_the_same_bytes_anywhere(pair, tmp_path):
    shutil.copytree(pair.runs[0].out, tmp_path / "copy")
    code = (
        "import sys\nfrom pipeline.report.page.writing import page_of\n"
        "from pipeline.analysis import open_run\n"
        f"ids = {[run.run_id for run in pair.runs]}\n"
        f"runs = [open_run({str(tmp_path / 'copy')!r}, one) for one in ids]\n"
        "sys.stdout.buffer.write(page_of(runs))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout == pair.both


def test_a_randomized_run_never_passes_for_a_proof(tmp_path):
    run = certified_run(tmp_path, draws=30)
    page = Page(page_of([run]))
    result, rest = page.text.split("How to read this page")
    said = result + rest[rest.index("Every patch size") :]
    assert "Sound certificate" not in said
    assert "provably" not in said
    assert "sound" not in said
    assert "Probabilistic certificate, confidence 99.9 % an image." in said
    assert "99.9 % confidence for each" in result
    assert "2x2 px, 2.8 %, confidence 99.9 %" in result
    assert ["patch", "randomized probabilistic"] in page.rows
    assert said.count("drawn at random for each image") >= 2  # no places, no gallery
    assert "--detect: it counts the votes of all ablations" in said


def test_a_run_without_labels_claims_no_accuracy(tmp_path):
    run = certified_run(tmp_path, labels=[None] * IMAGES)
    page = Page(page_of([run]))
    kept = run.summary["certified_accuracy"][2]["images_certified"]
    assert f"{kept} keep their prediction" in page.text
    assert "40 without a label (left out)" in page.text
    assert "no image has a label" in page.text
    assert "classified rightly" not in page.text
    assert f"Share of {IMAGES - 1} images (no label is known)" in page.text


def test_restricted_classes_and_sets_of_votes(tmp_path):
    votes, labels = made_up_votes(12)
    wide = {0: 3, 1: 10, 2: 50, 3: 90}
    renamed = np.vectorize(wide.get)(votes)
    sets = np.stack([renamed, np.full_like(renamed, -1)], axis=2)
    for name, cast, voting in (("one", renamed, None), ("sets", sets, 0.3)):
        out = tmp_path / name
        run_id = write_run(
            out,
            cast,
            [wide[label] for label in labels],
            ablation=FAMILIES["column"],
            classes=100,
            restricted=tuple(wide.values()),
            voting={"theta": voting, "gaps": False},
        )
        run = open_run(out, run_id)
        certify_votes(run.store, ClaimsConfig(patch=(1, 2)))
        page = Page(page_of([run]))
        shown = {row[0] for row in page.rows if row[0].startswith("class ")}
        assert shown == {f"class {label}" for label in wide.values()}
        rivals = re.findall(r"margin [+−]\d+ against class (\d+)", page.text)  # noqa: RUF001
        assert rivals
        assert {int(rival) for rival in rivals} <= set(wide.values())


def test_other_questions_have_rows_of_their_own(tmp_path):
    run = certified_run(tmp_path)
    certify_votes(run.store, ClaimsConfig(patch=(2,), top_k=(2,)))
    certify_votes(run.store, ClaimsConfig(patch=(2,)), stride=3)
    page = Page(page_of([open_run(tmp_path)]))
    rows = {row[0]: row for row in page.rows if row and row[0].startswith("2x2 px")}
    patch = "2x2 px, 2.8\N{NO-BREAK SPACE}%"
    assert rows.keys() == {patch, f"{patch}, top 2", f"{patch}, stride 3"}
    entry = next(e for e in open_run(tmp_path).summary["certified_accuracy"] if e["top_k"] == 2)
    assert f"{entry['hits']} of 40" in rows[f"{patch}, top 2"][1]


def test_classes_without_names_are_not_numbered_twice(pair):
    heads = [row for row in Page(pair.first).rows if row[0].strip() == "class"]
    assert [head[-1] for head in heads] == ["errors"]


def test_two_runs_are_compared_image_by_image(pair):
    runs, page, found = pair.runs, Page(pair.both), compare(*pair.runs)
    assert next(text for level, text in page.headings if level == 2) == "Comparison"
    assert [text for level, text in page.headings if level == 2][1:] == [
        "How to read this page",
        *(f"{letter} Run {run.run_id}" for letter, run in zip("AB", runs, strict=True)),
    ]
    for question, paired in found.tables.items():
        name = question.what if question.claim is None else f"{question.claim.threat} px, certified"
        (row,) = [
            row
            for row in page.rows
            if row[0].startswith(name)
            and f"{paired.only_first} / {paired.only_second}" in row
            and row[3].startswith(f"{100 * paired.difference:+.1f} (".replace("-", "\u2212"))
            and (question.claim is None or row[0].endswith(question.claim.rule))
        ]
        assert row[1:3] == [f"{100 * paired.first.value:.1f}", f"{100 * paired.second.value:.1f}"]
    assert "1 have an error in A and 2 in B" in page.text
    votes = found.votes
    assert (
        f"Votes: {100 * votes.equal / votes.ablations:.2f} % of {votes.ablations} ablations of "
        "38 images vote equally"
    ) in page.text
    overlaid = next(svg for svg in page.svgs if "a curve a run" in svg)
    assert all(run.run_id in overlaid for run in runs)


def test_runs_of_other_ablations_are_not_compared_vote_by_vote(pair, tmp_path):
    other = certified_run(tmp_path, ablation=replace(FAMILIES["column"], size=3))
    page = Page(page_of([pair.runs[0], other]))
    assert "Votes: not compared one by one, since the two vote on other ablations" in page.text


def test_runs_over_other_images_are_not_compared_unasked(tmp_path):
    first = certified_run(tmp_path, seed=0)
    ids = [f"shard-000/{n + 3:03d}" for n in range(IMAGES)]
    second = certified_run(tmp_path, seed=1, model="other", ids=ids)
    page = Page(page_of([first, second]))
    assert "Not shown: the runs are over different images: 3 only in" in page.text


def test_a_run_is_given_once(pair):
    with pytest.raises(ConfigError, match="twice"):
        page_of([pair.runs[0], pair.runs[0]])


def test_a_run_without_certificates_says_what_to_do(tmp_path):
    run = certified_run(tmp_path)
    (tmp_path / "summary" / f"run_id={run.run_id}.json").unlink()
    with pytest.raises(ConfigError, match=f"patchcert certify --run-id {run.run_id}"):
        page_of([open_run(tmp_path)])


def test_certificates_against_no_square_leave_the_rest(tmp_path):
    run = certified_run(tmp_path, patch=("2x3", "area:4"))
    page = Page(page_of([run]))
    assert page.text.count("no certificate against a square patch") >= 4
    assert [row for row in page.rows if row[0] == "2x3 px, 4.2\N{NO-BREAK SPACE}%"]
