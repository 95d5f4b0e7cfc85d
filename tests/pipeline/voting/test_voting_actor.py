"""The actor that votes: which thread its network runs in."""

import threading
from functools import partial

import numpy as np
import pytest
import torch

import pipeline.voting.vote
from models.classifiers.smoothed import SmoothedClassifier
from pipeline.config import VotesConfig
from pipeline.runs.numerics import probe_machine, resolve_numerics
from pipeline.runs.resolve import resolve_defense
from pipeline.runs.schema import VOTES, votes_schema
from pipeline.sources.base import SourceOptions
from pipeline.sources.listing import list_images
from pipeline.voting.dataset import InOneThread
from pipeline.voting.decode import DecodeUnit
from pipeline.voting.job import plan_units


def test_one_thread_builds_and_uses_the_network_whoever_calls(shards, tiny_weights, monkeypatch):
    """OpenMP's threads belong to the thread that asks: of two there would be more than cores."""
    config = VotesConfig(data=str(shards), weights=str(tiny_weights), threads=2, limit=2)
    defense, options = resolve_defense(config), SourceOptions()
    numerics = resolve_numerics(config, probe_machine("cpu"))
    (unit,) = plan_units(list_images(str(shards), options, None).head(2).table, 2)
    decoded = DecodeUnit(options, defense.model_input)(unit)
    seen = []

    def noted(work, *arguments):
        seen.append((threading.get_ident(), torch.get_num_threads()))
        return work(*arguments)

    build, cast = pipeline.voting.vote.build_classifier, SmoothedClassifier.__call__
    monkeypatch.setattr(pipeline.voting.vote, "build_classifier", partial(noted, build))
    monkeypatch.setattr(SmoothedClassifier, "__call__", lambda *given: noted(cast, *given))

    vote = InOneThread(partial(pipeline.voting.vote.VoteOnUnit, defense, numerics, VOTES))
    first = vote(decoded)
    answers = []
    caller = threading.Thread(target=lambda: answers.append(vote(decoded)))
    caller.start()
    caller.join()

    assert answers[0].drop_columns("seconds") == first.drop_columns("seconds")
    built, *casts = seen
    assert len({thread for thread, _ in seen}) == 1
    assert built[0] != threading.get_ident()
    assert [threads for _, threads in casts] == [2, 2]
    assert torch.get_num_threads() == 1, "the caller keeps its own number"


def test_an_error_of_the_network_reaches_the_caller(shards, tiny_weights, monkeypatch):
    config = VotesConfig(data=str(shards), weights=str(tiny_weights), threads=1, limit=2)
    defense = resolve_defense(config)
    numerics = resolve_numerics(config, probe_machine("cpu"))
    monkeypatch.setattr(torch, "device", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pipeline.voting.vote.VoteOnUnit(defense, numerics, VOTES)


@pytest.mark.parametrize("draws", [None, 4])
def test_an_image_whose_logits_are_not_finite_is_a_row_with_an_error(
    shards, tiny_weights, monkeypatch, draws
):
    config = VotesConfig(
        data=str(shards), weights=str(tiny_weights), threads=1, limit=3, randomized=draws
    )
    defense, options = resolve_defense(config), SourceOptions()
    numerics = resolve_numerics(config, probe_machine("cpu"))
    vote = pipeline.voting.vote.VoteOnUnit(defense, numerics, votes_schema(views=draws is not None))
    (unit,) = plan_units(list_images(str(shards), options, None).head(3).table, 3)
    decoded = DecodeUnit(options, defense.model_input)(unit)
    before = vote(decoded).to_pylist()
    cast = SmoothedClassifier.__call__
    lost = np.array([True, False, True])
    monkeypatch.setattr(
        SmoothedClassifier, "__call__", lambda *given: cast(*given)._replace(finite_b=lost)
    )
    after = vote(decoded).to_pylist()
    assert [row["error"] for row in before] == [None] * 3
    assert "not finite" in after[1]["error"]
    assert after[1]["votes"] is after[1]["prediction"] is after[1]["plain_prediction"] is None
    for row in (0, 2):
        assert after[row] | {"seconds": None} == before[row] | {"seconds": None}
