"""Sharing out CPUs and GPUs so that tasks can always run beside the actors."""

from hypothesis import given
from hypothesis import strategies as st
from pytest import mark, raises

from pipeline.cluster import plan_share
from pipeline.config import ConfigError
from pipeline.numerics import Numerics


def numerics(device: str = "cpu", threads: int = 2) -> Numerics:
    return Numerics(
        dtype="float32",
        device=device,
        device_model="x",
        microbatch=8,
        threads=threads if device == "cpu" else 0,
    )


@given(
    cpus=st.integers(1, 128),
    threads=st.integers(1, 8),
    actors=st.none() | st.integers(1, 16),
    units=st.integers(1, 500),
)
def test_decoding_and_committing_always_find_a_cpu(cpus, threads, actors, units):
    try:
        share = plan_share({"CPU": float(cpus)}, numerics(threads=threads), actors, units)
    except ConfigError:
        assert actors is not None
        assert actors * 0.01 > cpus - 0.75
        return
    assert share.actors * share.cpus + 0.75 <= cpus + 1e-9
    assert share.cpus > 0
    assert 1 <= share.actors <= units
    assert share.gpus == 0


def test_one_actor_a_gpu():
    share = plan_share({"CPU": 16.0, "GPU": 4.0}, numerics("cuda"), None, 100)
    assert (share.actors, share.gpus) == (4, 1.0)


@mark.parametrize(
    ("available", "device", "actors", "message"),
    [
        ({"CPU": 4.0}, "cuda", None, "no GPU"),
        ({"CPU": 4.0, "GPU": 2.0}, "cuda", 3, "has 2 GPUs"),
        ({"CPU": 1.0}, "cpu", 40, "fewer --actors"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(available, device, actors, message):
    with raises(ConfigError, match=message):
        plan_share(available, numerics(device), actors, 100)
