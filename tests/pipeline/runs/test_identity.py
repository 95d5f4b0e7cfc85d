"""Where a run says that its images and weights lie."""

import hashlib

import numpy as np
import pyarrow as pa
from pytest import mark
from safetensors.numpy import save_file

import pipeline.runs.manifest
from models.networks.weights import WeightsCard
from pipeline import storage
from pipeline.analysis.classes import class_names
from pipeline.config import VotesConfig
from pipeline.runs.manifest import Execution, Manifest, execution_of, rows_digest
from pipeline.sources.base import LISTING
from pipeline.storage.patterns import expand_braces


def places(data: str, weights: str) -> tuple[str, str]:
    """What the manifest records of them."""
    found = execution_of(VotesConfig(data=data, weights=weights), 5)
    return found.data, found.weights


@mark.parametrize(
    "data", ["images/val-{000..002}.tar", "images/*.tar", "images/", "./a/../b", "{a,b}/x.tar"]
)
def test_local_places_mean_the_same_from_another_folder(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    meant = [storage.full_path(one) for one in expand_braces(data)]
    found = places(data, "w.safetensors")
    assert found[1] == str(tmp_path / "w.safetensors")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [storage.full_path(one) for one in expand_braces(found[0])] == meant


@mark.parametrize("data", ["s3://bucket/val-{0..2}.tar", "{/a,/b}/x.tar"])
def test_other_places_are_as_they_were_given(data):
    assert places(data, "timm:deit_tiny_patch16_224") == (data, "timm:deit_tiny_patch16_224")
    assert places(data, "s3://bucket/w.safetensors")[1] == "s3://bucket/w.safetensors"


def test_classes_keep_their_names_in_another_folder(tmp_path, monkeypatch):
    card = WeightsCard(classes=("cat", "dog"))
    save_file({"w": np.zeros(1)}, tmp_path / "w.safetensors", metadata=card.to_metadata())
    monkeypatch.chdir(tmp_path)
    _, weights = places("x", "w.safetensors")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert class_names(Manifest(identity={}, execution=Execution(weights=weights))) == (
        "cat",
        "dog",
    )


@mark.parametrize("rows", [1, 3, 100])
def test_the_digest_of_all_rows_does_not_depend_on_how_many_are_taken_at_a_time(monkeypatch, rows):
    table = pa.table(
        {
            "image_id": ["a/0", "a/1", "b/0", "b/é"],
            "label": [1, None, 0, 7],
            "file": ["f"] * 4,
            "offset": [0] * 4,
            "size": [1] * 4,
            "labels": [None, [1, 2], [], None],
            "state": [0] * 4,
            "digest": [0] * 4,
        },
        schema=LISTING,
    )
    monkeypatch.setattr(pipeline.runs.manifest, "_DIGEST_ROWS", rows)
    lines = "a/0\0001\0None\na/1\0None\0[1, 2]\nb/0\0000\0[]\nb/é\0007\0None\n"
    assert rows_digest(table) == hashlib.sha256(lines.encode()).hexdigest()
