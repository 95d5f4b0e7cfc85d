"""A worker whose bits leak casts no vote: the job ends before the first one, in words."""

import pytest

from jobs.cli import main
from models.classifiers.drop import TokenDropViT
from pipeline.analysis import open_run
from tests.in_process import stages_here, votes_command


@pytest.fixture
def leaking(monkeypatch):
    """Every other slot computes the last bit otherwise."""
    sound = TokenDropViT.forward

    def forward(self, *given):
        logits = sound(self, *given).clone()
        logits[1::2] *= 1 + 1e-6
        return logits

    monkeypatch.setattr(TokenDropViT, "forward", forward)


def test_no_vote_is_cast_where_slots_differ(shards, tiny_weights, tmp_path, leaking, capsys):
    """Ray's actors raise the same."""
    assert main([*votes_command(shards, tiny_weights, tmp_path), "--no-ray"]) == 1
    said = capsys.readouterr().err
    assert "slot 1 of 16, beside copies of itself" in said
    assert "--dtype float32, another" in said
    assert not [*tmp_path.glob("votes/**/*.parquet")]


def test_the_manifest_says_that_the_bits_were_checked(shards, tiny_weights, tmp_path, monkeypatch):
    stages_here(monkeypatch)
    assert main(votes_command(shards, tiny_weights, tmp_path)) == 0
    assert open_run(str(tmp_path)).manifest.execution.bits_checked is True
