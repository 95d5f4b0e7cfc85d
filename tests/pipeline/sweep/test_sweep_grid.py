"""Which points of a sweep need votes of their own: the grid, and who answers for whom."""

from dataclasses import fields, replace

import numpy as np
import pytest

from models.views.ablations import Ablation
from pipeline.config import ClaimsConfig, ConfigError, VotesConfig
from pipeline.runs.error_images import ErrorImages
from pipeline.runs.manifest import Execution, Manifest
from pipeline.runs.store import VotesStore
from pipeline.scoring.certify import certify_votes
from pipeline.sweep.config import NAMES, Axes, FixedConfig, configs_of
from pipeline.sweep.grid import Combination, Origin, forecast, forecast_lines, origins
from pipeline.sweep.table import row_of
from tests.pipeline.analysis.stored_runs import identity, write_run

EVERY = Ablation(kind="column", size=2, stride=1, height=12, width=12)


def point(stride: int, *, overwrite: bool = False, **more) -> Combination:
    ablation = replace(EVERY, stride=stride)
    config = VotesConfig(data="images/*.tar", weights="w.safetensors", overwrite=overwrite)
    wanted = Manifest(
        identity=identity(ablation, 4, "tiny", None, **more),
        execution=Execution(data="images/*.tar", images=6, unit_images=4, units=2),
    )
    return Combination(config=config, defense=None, wanted=wanted)


def stored(out, stride: int) -> str:
    """A finished run at a stride."""
    ablation = replace(EVERY, stride=stride)
    run_id = write_run(out, np.ones((6, len(ablation)), int), [1] * 6, ablation=ablation)
    store = VotesStore(str(out), run_id)
    manifest = store.manifest()
    execution = replace(manifest.execution, error_images=ErrorImages(count=0, first={}))
    store.write_manifest(replace(manifest, execution=execution))
    return run_id


def who(found: list[Origin]) -> list[tuple[str, int | None, bool]]:
    return [(answer.run_id, answer.stride, answer.there) for answer in found]


def test_a_stride_is_answered_by_the_finest_it_is_a_multiple_of(tmp_path):
    points = [point(stride) for stride in (6, 4, 2, 3)]
    two, three = points[2].wanted.run_id, points[3].wanted.run_id
    assert who(origins(points, str(tmp_path))) == [
        (two, 6, False),
        (two, 4, False),
        (two, None, False),
        (three, None, False),
    ]


def test_what_is_there_answers_first(tmp_path):
    one, four = stored(tmp_path, 1), stored(tmp_path, 4)
    assert point(4).wanted.run_id == four
    found = origins([point(stride) for stride in (4, 2, 12)], str(tmp_path))
    assert who(found) == [(four, None, True), (one, 2, True), (four, 12, True)]


def test_overwriting_takes_nothing_that_is_there(tmp_path):
    stored(tmp_path, 1)
    found = origins([point(2, overwrite=True)], str(tmp_path))
    assert who(found) == [(point(2).wanted.run_id, None, False)]


@pytest.mark.parametrize(
    "other",
    [
        {"tokens": "black"},
        {"numerics": {"device": "cuda", "dtype": "float32"}},
        {"data": {"kind": "tar", "fingerprint": "beef", "several_labels": False}},
        {"randomized": {"draws": 5, "seed": 0}},
    ],
    ids=["tokens", "numerics", "data", "draws"],
)
def test_only_runs_that_differ_in_the_stride_alone_answer(tmp_path, other):
    stored(tmp_path, 1)
    points = [point(2, **other), point(4)]
    own = point(2, **other).wanted.run_id
    assert who(origins(points, str(tmp_path)))[0] == (own, None, False)


def test_the_forecast_counts_only_what_is_missing(tmp_path):
    four = stored(tmp_path, 4)
    found = origins([point(stride) for stride in (4, 12, 6, 3)], str(tmp_path))
    plan = forecast(found, str(tmp_path))
    assert [one["sequences"] for one in plan] == [0, 0, 0, 6 * (4 + 1)]
    assert plan[1]["run_id"] == four
    assert "30 sequences in all" in forecast_lines(plan)[-1]


def test_no_claim_takes_the_column_of_another(tmp_path):
    """Neither by a gap, nor by what is assumed, nor by a confidence."""
    of_gaps = {"voting": {"theta": None, "gaps": True}}
    votes = np.random.default_rng(0).integers(0, 4, (6, len(EVERY)))
    store = VotesStore(
        str(tmp_path), write_run(tmp_path, votes, [1] * 6, ablation=EVERY, **of_gaps)
    )
    one = {"patch": (2,), "rule": ("one-location",)}
    certify_votes(store, ClaimsConfig(**one, tau=(0.25, 0.75)))
    summary = certify_votes(store, ClaimsConfig(**one, assume="3")).summary
    (entry, *_) = summary["certified_accuracy"]
    drawn = {"rule": "randomized", "assumes": None}
    randomized = [{**entry, **drawn, "confidence": sure} for sure in (0.99, 0.999)]
    entries = [*summary["certified_accuracy"], *randomized]
    (origin,) = origins([point(1, **of_gaps)], str(tmp_path))
    row = row_of(origin, store.manifest(), {**summary, "certified_accuracy": entries})
    assert list(row["certified"]) == [
        "one-location 2x2",
        "one-location 2x2 tau 0.25",
        "one-location 2x2 tau 0.75",
        "one-location 2x2 assumes 3x3",
        "randomized 2x2 confidence 0.99",
        "randomized 2x2 confidence 0.999",
    ]
    assert list(row["clean"]) == list(row["certified"])[:4]


def fixed(**more) -> FixedConfig:
    return FixedConfig(data="images/*.tar", **more)


def test_a_grid_is_every_combination_once():
    axes = Axes(weights=("w.safetensors",), size=(19, 37, 19), stride=(1, 7))
    configs = configs_of(axes, fixed(limit=5))
    assert [(one.size, one.stride) for one in configs] == [(19, 1), (19, 7), (37, 1), (37, 7)]
    assert {one.limit for one in configs} == {5}
    assert axes.varying == ["size", "stride"]


def test_theta_belongs_to_threshold_voting():
    axes = Axes(weights=("w.safetensors",), voting=("argmax", "threshold"))
    configs = configs_of(axes, fixed(theta=0.3))
    assert [(one.voting, one.theta) for one in configs] == [("argmax", None), ("threshold", 0.3)]


def test_a_combination_that_contradicts_itself_is_named():
    axes = Axes(weights=("w.safetensors",), stride=(1, 2))
    with pytest.raises(ConfigError, match=r"stride=2.*--stride 2"):
        configs_of(axes, fixed(positions="random:5"))
    with pytest.raises(ConfigError, match="--size"):
        Axes(weights=("w.safetensors",), size=())


def test_every_option_of_a_run_is_an_axis_or_fixed():
    def declared(config):
        return {one.name: (one.type, one.default) for one in fields(config)}

    others = {name: one for name, one in declared(VotesConfig).items() if name not in NAMES}
    assert declared(FixedConfig) == others
    assert set(NAMES) < set(declared(VotesConfig))
