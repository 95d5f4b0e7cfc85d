"""Runs with --decide: the answers of the full run, from fewer votes, and no answer beyond them."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from pytest import MonkeyPatch, fixture, mark, raises
from test_flow import config_for, rows_of
from test_judging import rows_of as votes_rows

from jobs.cli import main
from models.ablation import Ablation
from models.order import looks, spread
from pipeline.ballots import votes_array
from pipeline.bench import curtailment
from pipeline.certificates.curtailment import Curtailment, settled
from pipeline.certificates.threats import Threat
from pipeline.claims import questions_of
from pipeline.config import ClaimsConfig, ConfigError, DecidedConfig, OutputConfig, VotesConfig
from pipeline.curtailing import curtailment_of, demand_all_votes
from pipeline.flow import count_votes
from pipeline.identity import execution
from pipeline.judging import judge
from pipeline.manifest import Manifest
from pipeline.questions import open_run
from pipeline.questions.sql import Answer, connect
from pipeline.reduction import certify_votes
from pipeline.resolve import resolve_voter
from pipeline.store import StoreError, VotesStore
from pipeline.tracking.measurements import points_in
from tests.in_process import stages_here

SHAPE = {"kind": "column", "size": 2, "stride": 1, "height": 12, "width": 12}
CLASSES = [0, 2, 3, 7]
ASKED = Curtailment((Threat.square(1), Threat.parse("1x2")), ("exact", "uniform"))


def manifest_of(asked=None):
    facts = {
        "model": {"name": "vit", "num_classes": 9, "classes": CLASSES},
        "ablation": SHAPE,
        "data": {"several_labels": False},
    }
    if asked is not None:
        facts["decide"] = asked.to_dict()
    return Manifest(identity=facts)


def cut(votes, ends):
    """Only the first votes of each image, in the order of voting."""
    place = np.argsort(spread(Ablation(**SHAPE)))
    return np.where(place < np.array(ends)[:, None], votes, -1)


@fixture(scope="module")
def ballots():
    """Votes of 60 images, those of them that decide ASKED, and the labels."""
    rng = np.random.default_rng(0)
    truth = rng.integers(4, size=(60, 1))
    noise = rng.random((60, 12)) < 0.7 * rng.random((60, 1))
    full = np.array(CLASSES)[np.where(noise, rng.integers(4, size=(60, 12)), truth)]
    numbered = np.searchsorted(CLASSES, full)
    ends = np.full(60, 12)
    for at in reversed(looks(12)):
        part = np.where(cut(full, [at] * 60) < 0, -1, numbered)
        ends[settled(part, Ablation(**SHAPE), 4, ASKED)] = at
    assert len(set(ends.tolist())) > 3
    return full, cut(full, ends), np.array(CLASSES)[truth[:, 0]].tolist()


def judged(asked, votes, labels, claims=None):
    manifest = manifest_of(asked)
    questions = questions_of(manifest, claims or ClaimsConfig(patch=("1", "1x2")))
    return judge(votes_rows(manifest, votes, labels, errors=1), manifest, questions), manifest


def test_answers_are_those_of_all_votes(ballots):
    full, part, labels = ballots
    (whole, manifest), (ended, own) = (
        judged(asked, votes, [*labels, 0]) for asked, votes in ((None, full), (ASKED, part))
    )
    for name in ("image_id", "label", "prediction", "threat", "rule", "certified"):
        assert ended.certificates[name] == whole.certificates[name]
    assert {True, False} <= set(whole.certificates["certified"].to_pylist())
    counted, saved = whole.tally.summary(manifest), ended.tally.summary(own)
    for name in ("certified_accuracy", "smoothed_accuracy", "plain_accuracy", "images_with_error"):
        assert saved[name] == counted[name]
    cast = int((part >= 0).sum())
    assert saved["decide"]["votes_cast"] == cast < saved["decide"]["of"] == 60 * 12
    assert saved["decide"]["share_saved"] == 1 - cast / 720
    assert "decide" not in counted


def test_numbers_that_hang_on_missing_votes_are_null(ballots):
    _, part, labels = ballots
    ended, manifest = judged(ASKED, part, [*labels, 0])
    assert ended.certificates["margin"].null_count == ended.certificates.num_rows
    for name in ("lead", "largest_exact_px", "largest_uniform_px"):
        assert ended.images[name].null_count == ended.images.num_rows
    summary = ended.tally.summary(manifest)
    assert summary["mean_ablation_accuracy"] is None
    assert summary["largest"]["hits"] == {}


@mark.parametrize("place", range(12))
def test_an_answer_rests_on_no_missing_vote(ballots, place):
    """One vote more withdrawn: either the rest decides as before, or the batch is refused."""
    full, part, labels = ballots
    votes = part.copy()
    votes[:, spread(Ablation(**SHAPE))[place]] = -1
    numbered = np.where(votes < 0, -1, np.searchsorted(CLASSES, votes))
    open_n = ~settled(numbered, Ablation(**SHAPE), 4, ASKED)
    assert open_n.any()
    with raises(StoreError, match=f"image_id={np.flatnonzero(open_n)[0]}: its vote ended"):
        judged(ASKED, votes, [*labels, 0])
    if not open_n.all():
        kept = np.flatnonzero(~open_n)
        mine = [labels[image] for image in kept]
        (ended, _), (whole, _) = (
            judged(asked, cast[kept], [*mine, 0]) for asked, cast in ((ASKED, votes), (None, full))
        )
        assert ended.certificates["certified"] == whole.certificates["certified"]


def test_a_wrong_prediction_is_noticed(ballots):
    _, part, labels = ballots
    manifest = manifest_of(ASKED)
    table = votes_rows(manifest, part, labels)
    other = pa.array((np.array(table["prediction"]) + 1).astype(np.int32))
    column = table.schema.get_field_index("prediction")
    with raises(StoreError, match="the stored prediction is not that of the votes"):
        judge(
            table.set_column(column, table.schema.field(column), other),
            manifest,
            questions_of(manifest, ClaimsConfig()),
        )


def test_missing_votes_of_a_full_run_are_an_error(ballots):
    _, part, labels = ballots
    table = votes_rows(manifest_of(), part, labels)
    with raises(StoreError, match="the manifest says nothing of it"):
        votes_array(table, manifest_of())


@mark.parametrize(
    ("claims", "stride", "named"),
    [
        ({"patch": (2,)}, None, "--patch 2x2"),
        ({"patch": ("1x2", "2x1")}, None, "--patch 2x1"),
        ({"patch": ("2of1",)}, None, "--patch 2 of 1x1"),
        ({"top_k": (2,), "rule": ("exact",)}, None, "--top-k 2"),
        ({"detect": True}, None, "--detect"),
        ({}, 2, "--stride 2"),
    ],
)
def test_other_questions_are_refused(claims, stride, named):
    with raises(ConfigError) as refused:
        questions_of(manifest_of(ASKED), ClaimsConfig(**claims), stride)
    assert str(refused.value).startswith(f"{named}: it needs votes that this run (--decide)")
    assert "patches of 1x1, 1x2 px by the rules exact and uniform were decided" in str(
        refused.value
    )


def test_one_rule_decides_nothing_of_the_other():
    manifest = manifest_of(Curtailment(ASKED.threats, ("exact",)))
    assert {claim.rule for claim in questions_of(manifest, ClaimsConfig()).claims} == {"exact"}
    with raises(ConfigError, match="--rule uniform"):
        questions_of(manifest, ClaimsConfig(rule=("uniform",)))


def test_without_a_question_all_that_was_decided_is_answered():
    questions = questions_of(manifest_of(ASKED), ClaimsConfig())
    assert curtailment_of(questions) == ASKED


@mark.parametrize(
    ("request_", "message"),
    [
        ({"voting": "threshold"}, "not with --voting threshold"),
        ({"randomized": 20}, "not with --randomized"),
        ({"gaps": True}, "not with --gaps"),
    ],
)
def test_votes_that_cannot_end_early(request_, message):
    with raises(ConfigError, match=message):
        VotesConfig(data="-", weights="-", decide=True, **request_)


@mark.parametrize("asked", [{"detect": True}, {"top_k": (1, 3), "rule": ("exact",)}])
def test_questions_that_need_every_vote_decide_nothing(asked):
    questions = questions_of(manifest_of(), ClaimsConfig(patch=(1,), **asked))
    with raises(ConfigError, match="it needs every vote; leave out --decide"):
        curtailment_of(questions)


def test_patches_of_votes_belong_to_decide():
    with raises(ConfigError, match="--patch: votes answer every one"):
        DecidedConfig(patch=(2,)).check(VotesConfig(data="-", weights="-"))
    DecidedConfig(patch=(2,)).check(VotesConfig(data="-", weights="-", decide=True))


def test_units_fill_microbatches():
    """Else votes that are not needed fill them."""
    sixty_four = SimpleNamespace(microbatch=64)
    for decide, expected in ((True, (16, 125, 128)), (False, (16, 32, 256))):
        config = VotesConfig(data="-", weights="-", decide=decide)
        found = [execution(config, sixty_four, count)["unit_images"] for count in (30, 500, 10_000)]
        assert tuple(found) == expected


@fixture(scope="module")
def both_runs(shards, tiny_weights, tmp_path_factory):
    """(out, full run, run with --decide) over the two shards."""
    with MonkeyPatch.context() as patch:
        stages_here(patch)
        return _both_runs(shards, tiny_weights, str(tmp_path_factory.mktemp("out")))


def _both_runs(shards, tiny_weights, out):
    config = config_for(shards, tiny_weights)
    voter = resolve_voter(config)
    claims = ClaimsConfig(patch=(1, "8x20"), mlflow="none")
    asked = curtailment_of(questions_of(voter, claims))
    ids = []
    for one in (voter, dataclasses.replace(voter, curtailment=asked)):
        ids.append(count_votes(config, one, OutputConfig(out=out)).run_id)
        certify_votes(VotesStore(out, ids[-1]), claims, ray=False)
    return out, *ids


def test_a_job_that_decides_answers_as_the_full_one(both_runs):
    out, full, ended = both_runs
    rows = {run: rows_of(Path(out), run) for run in (full, ended)}
    missing = 0
    for whole, part in zip(rows[full], rows[ended], strict=True):
        for name in ("image_id", "label", "prediction", "plain_prediction", "error"):
            assert part[name] == whole[name]
        if whole["votes"] is not None:
            pairs = list(zip(part["votes"], whole["votes"], strict=True))
            assert all(mine in (None, other) for mine, other in pairs)
            missing += part["votes"].count(None)
    assert missing > 0
    query = (
        "SELECT count(*) AS n FROM certificates a JOIN certificates b USING "
        "(image_id, threat, rule, prediction, certified) "
        f"WHERE a.run_id = '{full}' AND b.run_id = '{ended}' AND a.prediction IS NOT NULL"
    )
    with connect(out) as connection:
        assert Answer(connection, query).table()["n"].to_pylist() == [21 * 4]
        nulls = f"SELECT sum(len(list_filter(votes, lambda v: v IS NULL))) AS n FROM votes WHERE \
run_id = '{ended}'"
        assert Answer(connection, nulls).table()["n"].to_pylist() == [missing]
    summary = VotesStore(out, ended).read_summary()
    assert summary["decide"]["of"] - summary["decide"]["votes_cast"] == missing
    assert VotesStore(out, ended).begun().identity["decide"]["threats"] == ["1x1", "8x20"]


def test_what_needs_all_votes_of_a_run_is_refused(both_runs):
    out, _, ended = both_runs
    run = open_run(out, ended)
    with raises(ConfigError, match="--decide"):
        next(run.batches())
    with raises(ConfigError, match="--decide"):
        run.margins("exact", 1)
    with raises(ConfigError, match="--patch 2x2: it needs votes"):
        certify_votes(VotesStore(out, ended), ClaimsConfig(patch=(2,)), ray=False)
    with raises(ConfigError, match="a question: it needs votes"):
        demand_all_votes(run.manifest, "a question")
    assert "votes" in run.table("votes").schema.names


def test_the_id_is_another_and_that_of_full_runs_stays(both_runs, shards, tiny_weights):
    out, full, ended = both_runs
    assert full != ended
    assert "decide" not in VotesStore(out, full).begun().identity
    facts = VotesStore(out, ended).begun().identity
    assert {**VotesStore(out, full).begun().identity, "decide": facts["decide"]} == facts


def test_a_replay_of_all_votes_ends_where_the_job_did(both_runs, capsys):
    """Answers that differ are counted by ``replay`` itself; the exit code is their sum's."""
    out, full, ended = both_runs
    ask = ["--out", out, "--patch", "1", "8x20"]
    assert main(["bench", "decide", "--run-id", full, "--json", *ask]) == 0
    replayed = json.loads(capsys.readouterr().out)["replays"]
    metrics = [point.name for point in points_in({"replays": replayed})]
    assert len(metrics) == len(set(metrics)) > 3
    saved = VotesStore(out, ended).read_summary()["decide"]
    assert [one["threats"] for one in replayed] == [["1x1"], ["8x20"], ["1x1", "8x20"]]
    assert {name: replayed[-1][name] for name in saved} == saved
    assert main(["bench", "decide", "--run-id", full, *ask]) == 0
    assert "0 answers differ" in capsys.readouterr().out
    assert main(["bench", "decide", "--run-id", ended, *ask]) == 2
    assert "this question: it needs votes" in capsys.readouterr().err


def test_commands_say_what_was_asked(both_runs, capsys):
    out, _, ended = both_runs
    here = ["--out", out, "--run-id", ended]
    assert main(["certify", *here, "--mlflow", "none"]) == 0
    shown = capsys.readouterr().out
    assert "of the votes were not needed (--decide)" in shown
    assert "mean over ablations" not in shown
    for command in (["witness", "--patch", "1"], ["heatmap", "--patch", "1"], ["audit"]):
        assert main([*command, *here]) == 2
        said = capsys.readouterr().err
        assert "this run (--decide) has not cast" in said
        assert "patches of 1x1, 8x20 px" in said


@mark.parametrize("wrong", ["exact", "uniform", "prediction"])
def test_a_replay_counts_answers_that_differ(wrong, monkeypatch):
    """Held against judgements that are not those of the votes."""
    ablation, rng = Ablation(**SHAPE), np.random.default_rng(1)
    votes = np.where(rng.random((40, 12)) < 0.8, 1, rng.integers(3, size=(40, 12)))
    asked = Curtailment((Threat.square(1),), ("exact", "uniform"))
    assert curtailment.replay(votes, ablation, 3, asked)["answers_that_differ"] == 0
    if wrong == "prediction":
        monkeypatch.setattr(curtailment, "ends", lambda votes, *_: np.full(len(votes), 7))
    else:
        right = curtailment.margins
        monkeypatch.setattr(
            curtailment, "margins", lambda rule, *rest: right(rule, *rest) - 99 * (rule == wrong)
        )
    assert curtailment.replay(votes, ablation, 3, asked)["answers_that_differ"] > 0
