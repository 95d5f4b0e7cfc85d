"""Runs on pairs of masks: with early exit they say what runs on all views say."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.config import ClaimsConfig, ConfigError, OutputConfig, VotesConfig
from pipeline.runs.resolve import resolve_defense
from pipeline.runs.store import VotesStore
from pipeline.scoring.certify import certify_votes
from pipeline.voting.plan import count_votes
from tests.conftest import lively_network, png, random_images, write_shard, write_tiny_weights
from tests.in_process import stages_here

IMAGES = 20


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, VotesStore]:
    """The same images and network, with early exit and without, and early again in other units."""
    folder = tmp_path_factory.mktemp("early")
    samples: dict[str, bytes] = {"broken.png": b"no picture"}
    for number, image in enumerate(random_images(IMAGES, seed=3)):
        samples[f"{number:02d}.png"] = png(image)
        samples[f"{number:02d}.cls"] = b"3"
    shard = write_shard(folder / "s.tar", samples)
    network = lively_network()
    with torch.no_grad():
        network.head.bias[3] += 5.5  # now some images have one label under all masks
    weights = write_tiny_weights(folder / "w.safetensors", network)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        stages_here(patch)
        fixed = {"microbatch": 16, "threads": 1, "unit_images": 8, "max_error_rate": 0.5}
        for name, changes in {
            "early": {},
            "all": {"all_views": True},
            "other units": {"unit_images": 3},
        }.items():
            views = {"views": "mask-pair", "covers": "32", "masks": "3", "gaps": True}
            given = {"data": str(shard), "weights": str(weights)} | views | fixed | changes
            config = VotesConfig(**given)
            out = str(folder / name)
            outcome = count_votes(config, resolve_defense(config), OutputConfig(out=out))
            found[name] = VotesStore(out, outcome.run_id)
    return found


def rows_of(store: VotesStore) -> list[dict]:
    return [row for table in store.read() for row in table.to_pylist()]


def test_labels_that_were_asked_are_those_of_all_views(stores):
    early, every = rows_of(stores["early"]), rows_of(stores["all"])
    assert len(early) == len(every) == IMAGES + 1
    asked = []
    for ours, theirs in zip(early, every, strict=True):
        for name in ("image_id", "label", "plain_prediction", "error"):
            assert ours[name] == theirs[name]
        if ours["error"] is None:
            assert None not in theirs["votes"]
            for name in ("votes", "gaps"):
                known = [value is not None for value in ours[name]]
                assert [v for v in ours[name] if v is not None] == [
                    v for v, kept in zip(theirs[name], known, strict=True) if kept
                ]
            asked.append(sum(known))
    assert min(asked) < max(asked) == 45
    assert len(asked) == IMAGES
    summary = certify_votes(stores["early"], ClaimsConfig()).summary
    assert summary["views_asked"] == pytest.approx(np.mean(asked))
    assert summary["views_asked"] < 45


def test_units_change_no_question(stores):
    """The questions to an image depend on it alone, not on those that share its unit."""
    assert stores["early"].run_id == stores["other units"].run_id
    assert rows_of(stores["early"]) == rows_of(stores["other units"])


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"patch": (32,), "rule": ("two-location", "one-location")},
        {"patch": (20,), "rule": ("one-location",)},
        {"patch": (20,), "rule": ("one-location",), "assume": "32"},
        {"patch": ("16x30",), "rule": ("one-location",)},
    ],
    ids=str,
)
def test_certificates_answers_and_alerts_are_those_of_all_views(stores, asked):
    found = {}
    for name in ("early", "all"):
        certified = certify_votes(stores[name], ClaimsConfig(**asked), overwrite=True)
        columns = ["image_id", "label", "prediction", "threat", "rule", "certified", "assumes"]
        rows = pq.read_table(Path(certified.folders["certificates"])).select(columns)
        found[name] = (
            sorted(rows.to_pylist(), key=str),
            [
                {k: v for k, v in entry.items() if k not in ("max_touched",)}
                for entry in certified.summary["certified_accuracy"]
            ],
        )
    assert found["early"] == found["all"]
    rows = found["all"][0]
    certified = [row["certified"] for row in rows if row["rule"] == "two-location"]
    assert not certified or 0 < sum(certified) < IMAGES
    if "two-location" not in asked.get("rule", "two-location"):
        assert any(row["prediction"] is None for row in rows)


@pytest.mark.parametrize(
    "asked",
    [
        {"patch": (20,)},
        {"patch": (20,), "assume": "32"},
        {"rule": ("double-masking",)},
        {"patch": ("2of32",), "rule": ("one-location",)},
    ],
    ids=str,
)
def test_what_needs_every_vote_is_refused_with_a_remedy(stores, asked):
    with pytest.raises(ConfigError, match="--all-views"):
        certify_votes(stores["early"], ClaimsConfig(**asked))
    if "20" not in str(asked) or "assume" in asked:
        certify_votes(stores["all"], ClaimsConfig(**asked), overwrite=True)
