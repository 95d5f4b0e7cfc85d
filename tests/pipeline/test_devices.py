"""Device models: a run's votes are those of one, or each row says its own."""

import contextlib
import dataclasses
import io
import traceback
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ray.exceptions import ActorDiedError, RayTaskError
from rich.console import Console

import pipeline.cluster
import pipeline.stages
import pipeline.voting
from models.errors import JobError
from pipeline.cluster import one_machine
from pipeline.committing import CommitUnit
from pipeline.config import ClaimsConfig, ConfigError, OutputConfig, VotesConfig
from pipeline.decoding import DecodeUnit
from pipeline.failures import WorkersDiedError, in_words
from pipeline.flow import count_votes
from pipeline.manifest import Manifest
from pipeline.numerics import MIXED, Machine, demand_one_gpu_model, probe_machine, resolve_numerics
from pipeline.passes import plan_units
from pipeline.reduction import certify_votes
from pipeline.report import print_summary
from pipeline.resolve import resolve_voter
from pipeline.schema import VOTES
from pipeline.shares import Share
from pipeline.sources.listing import SourceOptions, list_images
from pipeline.stages import run_units
from pipeline.store import StoreError, VotesStore, check_rows
from pipeline.voting import VoteOnUnit, WorkerError, check_worker


def machine(model: str, device: str = "cpu", cpus: int = 4) -> Machine:
    return Machine(device, model, cpus, {})


def test_nodes_of_several_models_are_refused_by_name_unless_mixed():
    found = [("a", machine("Zen 3")), ("b", machine("Zen 4", cpus=2)), ("c", machine("Zen 3"))]
    with pytest.raises(ConfigError, match=r"Zen 3 on a, c; Zen 4 on b.*--num-cpus 0.*--allow-mix"):
        one_machine(found, mixed=False)
    gpus = [("a", machine("NVIDIA A100-SXM4-40GB", "cuda")), ("b", machine("A100 80GB", "cuda"))]
    with pytest.raises(ConfigError, match="--accelerator-type where"):
        one_machine(gpus, mixed=False)
    assert one_machine(found, mixed=True).cpus == 2
    assert one_machine(found[::2], mixed=False).device_model == "Zen 3"


def test_two_gpu_models_in_one_machine_are_refused(monkeypatch):
    names = ["L4", "L4"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    demand_one_gpu_model()
    names.append("T4")
    with pytest.raises(ConfigError, match=r"0: L4, 1: L4, 2: T4.*CUDA_VISIBLE_DEVICES"):
        demand_one_gpu_model()


def test_a_mixed_run_has_one_id_whichever_machine_begins_it():
    mixed = VotesConfig(data="x", weights="x", allow_mixed_devices=True)
    first, second = (resolve_numerics(mixed, machine(*of)) for of in (("A",), ("B", "cpu", 64)))
    assert first == second
    assert (first.device_model, first.mixed) == (MIXED, True)
    plain = resolve_numerics(VotesConfig(data="x", weights="x"), machine("A"))
    assert (plain.device_model, plain.mixed, plain.threads) == ("A", False, 4)
    # Nothing new in the identity of ordinary runs, whose ids and rows must stay.
    assert plain.to_dict().keys() == first.to_dict().keys()
    assert Manifest(identity={"numerics": plain.to_dict()}).schema == VOTES
    assert Manifest(identity={"numerics": first.to_dict()}).schema.names == [*VOTES.names, "device"]


def test_one_model_and_any_model_are_not_asked_for_at_once():
    with pytest.raises(ConfigError, match="choose one of them"):
        VotesConfig(data="x", weights="x", accelerator_type="L4", allow_mixed_devices=True)


def test_a_mixed_run_takes_any_model_and_nothing_else_unlike_it(tiny_weights):
    config = VotesConfig(data="x", weights=str(tiny_weights), threads=1, allow_mixed_devices=True)
    voter, here = resolve_voter(config), probe_machine("cpu")
    ours = resolve_numerics(config, here._replace(device_model="another CPU"))
    assert check_worker(voter, ours) == here.device_model
    with pytest.raises(WorkerError, match="library versions"):
        check_worker(voter, dataclasses.replace(ours, versions={"torch": "0"}))


@pytest.fixture
def two_models(monkeypatch):
    """Two actors in this process, on devices of two models, units in turns."""

    @contextlib.contextmanager
    def no_cluster(*, verbose):
        yield {"CPU": 2.0}

    def in_turns(units, decode, vote, commit, share, *, stall_seconds, verbose):
        actors = []
        for model in ("Zen 3", "Zen 4"):
            here = probe_machine("cpu")._replace(device_model=model)
            monkeypatch.setattr(pipeline.voting, "probe_machine", lambda device, here=here: here)
            actors.append(vote())
        for number, unit in enumerate(units):
            yield commit(actors[number % 2](decode()(unit)))

    monkeypatch.setattr(pipeline.cluster, "ray_cluster", no_cluster)
    monkeypatch.setattr(pipeline.stages, "run_units", in_turns)


def test_rows_of_a_mixed_run_say_their_device_and_so_does_every_summary(
    shards, tiny_weights, tmp_path, two_models
):
    config = VotesConfig(
        data=str(shards),
        weights=str(tiny_weights),
        microbatch=16,
        unit_images=6,
        allow_mixed_devices=True,
    )
    out = OutputConfig(out=str(tmp_path))
    outcome = count_votes(config, resolve_voter(config), out)
    store = VotesStore(out.out, outcome.run_id)
    rows = [row for table in store.read() for row in table.to_pylist()]
    for number, row in enumerate(rows):
        expected = ("Zen 3", "Zen 4")[number // 6 % 2]
        assert row["device"] == (None if row["error"] else expected)
    assert sum(row["error"] is not None for row in rows) == 2
    summary = certify_votes(store, ClaimsConfig(patch=(16,))).summary
    assert summary["devices"] == {"Zen 3": 12, "Zen 4": 9}
    text = io.StringIO()
    print_summary(summary, Console(file=text))
    said = " ".join(text.getvalue().split())
    assert "votes of 2 device models (--allow-mixed-devices): Zen 3 (12 images), Zen 4" in said
    # Of one model alone it would be another run, and its rows would have no such column.
    alone = dataclasses.replace(config, allow_mixed_devices=False)
    with pytest.raises(WorkerError, match="--allow-mixed-devices"):
        count_votes(alone, resolve_voter(alone), out)


def test_a_row_without_its_device_is_not_committed(shards, tiny_weights, tmp_path, two_models):
    config = VotesConfig(
        data=str(shards), weights=str(tiny_weights), limit=2, allow_mixed_devices=True
    )
    outcome = count_votes(config, resolve_voter(config), OutputConfig(out=str(tmp_path)))
    store = VotesStore(str(tmp_path), outcome.run_id)
    manifest, table = store.begun(), pq.read_table(store.folder + "/unit-00000.parquet")
    check_rows(table, manifest.schema, manifest.votes_per_image)
    place = table.schema.get_field_index("device")
    nobody = pa.nulls(table.num_rows, pa.string())
    bare = table.set_column(place, table.schema.field(place), nobody)
    with pytest.raises(StoreError, match="device or error"):
        check_rows(bare, manifest.schema, manifest.votes_per_image)


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
    voter = resolve_voter(config)
    numerics = resolve_numerics(config, probe_machine("cpu")._replace(device_model="Cray-1"))
    options = SourceOptions()
    (unit,) = plan_units(list_images(str(shards), options, None).head(4).table, 4)
    with pytest.raises(JobError, match=r"device model on worker .* Cray-1") as caught:
        list(
            run_units(
                [unit],
                partial(DecodeUnit, options, voter.preprocess),
                partial(VoteOnUnit, voter, numerics, VOTES),
                CommitUnit(VotesStore(str(tmp_path), "r0"), [4], VOTES, len(voter.ablation)),
                Share(actors=1, cpus=0.5, gpus=0.0),
                stall_seconds=600,
                verbose=False,
            )
        )
    assert not isinstance(caught.value, WorkersDiedError)
