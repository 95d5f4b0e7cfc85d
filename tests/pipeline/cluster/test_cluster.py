"""Sharing out CPUs and GPUs so that tasks can always run beside the actors."""

import dataclasses
import itertools
import shutil

from hypothesis import given
from hypothesis import strategies as st
from pytest import mark, raises

from pipeline.cluster.resources import plan_resources
from pipeline.config import ConfigError, VotesConfig
from pipeline.runs.numerics import Numerics, probe_machine, resolve_numerics
from pipeline.runs.resolve import resolve_defense
from pipeline.voting.vote import WorkerError, check_worker


def numerics(device: str = "cpu", threads: int = 2) -> Numerics:
    return Numerics(
        dtype="float32",
        device=device,
        device_model="x",
        microbatch=8,
        threads=threads if device == "cpu" else 0,
        versions={},
    )


@given(
    cpus=st.integers(1, 128),
    threads=st.integers(1, 8),
    actors=st.none() | st.integers(1, 16),
    units=st.integers(1, 500),
)
def test_decoding_and_committing_always_find_a_cpu(cpus, threads, actors, units):
    try:
        share = plan_resources({"CPU": float(cpus)}, numerics(threads=threads), actors, units)
    except ConfigError:
        assert actors is not None
        assert actors * 0.01 > cpus - 0.75
        return
    assert share.actors * share.cpus + 0.75 <= cpus + 1e-9
    assert share.cpus > 0
    assert 1 <= share.actors <= units
    assert share.gpus == 0


@given(nodes=st.lists(st.integers(0, 6), min_size=1, max_size=3), actors=st.integers(1, 5))
def test_wherever_actors_land_a_node_can_still_decode_and_commit(nodes, actors):
    """Ray places tasks on one node each: CPUs that are left over on several of them are no use."""
    available = {"CPU": float(sum(nodes))}
    available |= {f"CPU:{name}": float(cpus) for name, cpus in enumerate(nodes)}
    try:
        share = plan_resources(available, numerics(threads=1), actors, 100)
    except ConfigError:
        assert max(nodes) < 1
        return
    for places in itertools.product(range(len(nodes)), repeat=share.actors):
        left = [cpus - share.cpus * places.count(node) for node, cpus in enumerate(nodes)]
        if min(left) >= 0:  # others cannot be
            assert max(left) >= 0.75 - 1e-9


def test_one_actor_a_gpu():
    share = plan_resources({"CPU": 16.0, "GPU": 4.0}, numerics("cuda"), None, 100)
    assert (share.actors, share.gpus) == (4, 1.0)


def test_a_cluster_that_scales_from_zero_is_asked_for_gpus():
    share = plan_resources({"CPU": 8.0}, numerics("cuda"), 4, 100)
    assert (share.actors, share.gpus) == (4, 1.0)


@mark.parametrize(
    ("available", "device", "actors", "message"),
    [
        ({"CPU": 4.0, "GPU": 2.0}, "cuda", 3, "has 2 GPUs"),
        ({"CPU": 1.0}, "cpu", 40, "fewer --actors"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(available, device, actors, message):
    with raises(ConfigError, match=message):
        plan_resources(available, numerics(device), actors, 100)


@mark.parametrize(
    ("change", "message"),
    [
        ({"device_model": "another CPU"}, "device model"),
        ({"versions": {"torch": "0"}}, "library versions"),
    ],
)
def test_a_worker_unlike_the_run_refuses_to_vote(change, message, tiny_weights):
    """A stale library or another processor would cast votes that are not this run's."""
    config = VotesConfig(data="x", weights=str(tiny_weights), threads=1)
    defense = resolve_defense(config)
    ours = resolve_numerics(config, probe_machine("cpu"))
    check_worker(defense, ours)
    with raises(WorkerError, match=message):
        check_worker(defense, dataclasses.replace(ours, **change))


def test_weights_replaced_on_a_worker_are_refused(tiny_weights, tmp_path):
    copy = tmp_path / "w.safetensors"
    shutil.copy(tiny_weights, copy)
    config = VotesConfig(data="x", weights=str(copy), threads=1)
    defense, ours = resolve_defense(config), resolve_numerics(config, probe_machine("cpu"))
    copy.write_bytes(copy.read_bytes() + b"\0")
    with raises(WorkerError, match="weights sha256"):
        check_worker(defense, ours)


def test_actors_find_their_cpus_beside_the_gpus():
    """Plenty of CPUs on a node without a GPU are no use to them."""
    found = {"CPU": 68.0, "CPU:a": 4.0, "CPU:b": 64.0}
    found |= {"GPU": 8.0, "GPU:A": 8.0, "GPU@a:A": 8.0}
    assert plan_resources(found, numerics("cuda"), None, 100).cpus == 0.5
    # With another model elsewhere, those of the one asked for count.
    found |= {"GPU": 12.0, "GPU:B": 4.0, "GPU@b:B": 4.0}
    assert plan_resources(found, numerics("cuda"), None, 100, "A").cpus == 0.5
    assert plan_resources(found, numerics("cuda"), None, 100, "B").cpus == 1.0
