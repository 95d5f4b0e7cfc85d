"""Device models: a run's votes are those of one."""

import traceback
from functools import partial

import pytest
import torch
from ray.exceptions import ActorDiedError, RayTaskError

from models.errors import JobError
from pipeline.cluster.connect import one_machine
from pipeline.cluster.errors import WorkersDiedError, in_words
from pipeline.cluster.resources import Resources
from pipeline.config import ConfigError, VotesConfig
from pipeline.runs.numerics import Machine, probe_machine, require_one_gpu_model, resolve_numerics
from pipeline.runs.resolve import resolve_defense
from pipeline.runs.schema import VOTES
from pipeline.runs.store import VotesStore
from pipeline.sources.base import SourceOptions
from pipeline.sources.listing import list_images
from pipeline.voting.commit import CommitUnit
from pipeline.voting.dataset import run_units
from pipeline.voting.decode import DecodeUnit
from pipeline.voting.job import plan_units
from pipeline.voting.vote import VoteOnUnit, WorkerError


def machine(model: str, device: str = "cpu", cpus: int = 4) -> Machine:
    return Machine(device, model, cpus, {})


def test_nodes_of_several_models_are_refused_by_name():
    found = [("a", machine("Zen 3")), ("b", machine("Zen 4", cpus=2)), ("c", machine("Zen 3"))]
    with pytest.raises(ConfigError, match=r"Zen 3 on a, c; Zen 4 on b.*--num-cpus 0"):
        one_machine(found)
    gpus = [("a", machine("NVIDIA A100-SXM4-40GB", "cuda")), ("b", machine("A100 80GB", "cuda"))]
    with pytest.raises(ConfigError, match="--accelerator-type where"):
        one_machine(gpus)
    assert one_machine(found[::2]).device_model == "Zen 3"


def test_two_gpu_models_in_one_machine_are_refused(monkeypatch):
    names = ["L4", "L4"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    require_one_gpu_model()
    names.append("T4")
    with pytest.raises(ConfigError, match=r"0: L4, 1: L4, 2: T4.*CUDA_VISIBLE_DEVICES"):
        require_one_gpu_model()


def begin_badly():
    raise WorkerError("device model on worker b: Cray-1")


def test_an_actor_that_cannot_begin_is_no_dead_one():
    """Of dead ones another pass is tried, as long as others commit something."""
    try:
        begin_badly()
    except WorkerError as error:
        told = RayTaskError("__init__", traceback.format_exc(), error)
    with pytest.raises(JobError, match="WorkerError: device model on") as caught, in_words():
        raise ActorDiedError(told)
    assert not isinstance(caught.value, WorkersDiedError)
    with pytest.raises(WorkersDiedError), in_words():
        raise ActorDiedError()


@pytest.mark.services
@pytest.mark.usefixtures("ray_session")
def test_an_actor_on_another_device_ends_the_job_in_words(shards, tiny_weights, tmp_path):
    """At once and for good: such an actor is no dead one, of which another pass would be tried."""
    config = VotesConfig(data=str(shards), weights=str(tiny_weights), threads=1)
    defense = resolve_defense(config)
    numerics = resolve_numerics(config, probe_machine("cpu")._replace(device_model="Cray-1"))
    options = SourceOptions()
    (unit,) = plan_units(list_images(str(shards), options, None).head(4).table, 4)
    with pytest.raises(JobError, match=r"device model on worker .* Cray-1") as caught:
        list(
            run_units(
                [unit],
                partial(DecodeUnit, options, defense.model_input),
                partial(VoteOnUnit, defense, numerics, VOTES),
                CommitUnit(VotesStore(str(tmp_path), "r0"), [4], VOTES, len(defense.views)),
                Resources(actors=1, cpus=0.5, gpus=0.0),
                stall_seconds=600,
                verbose=False,
            )
        )
    assert not isinstance(caught.value, WorkersDiedError)
