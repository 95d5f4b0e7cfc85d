"""Each check holds, and fails in words with its remedy."""

import errno
import os

import pytest

from models.errors import JobError
from pipeline.cluster.executor import Executor
from pipeline.cluster.resources import check_accelerators, plan_resources
from pipeline.config import ClaimsConfig, ConfigError, VotesConfig
from pipeline.preflight.findings import Caution, CheckError, PreflightError, look_at, require
from pipeline.preflight.stores import probe_output, reach_stores
from pipeline.preflight.tracker import reach_tracker
from pipeline.preflight.workers import check_budget, check_token
from pipeline.runs.numerics import Numerics


def numerics(device: str) -> Numerics:
    return Numerics(
        dtype="float32",
        device=device,
        device_model="x",
        microbatch=16,
        threads=2 if device == "cpu" else 0,
        versions={},
    )


def fail(error: Exception) -> str:
    raise error


def test_every_check_is_made_and_mistakes_of_ours_pass_through():
    found = list(
        look_at(
            [("a", lambda: "fine"), ("b", lambda: fail(CheckError("no\n way"))), ("c", lambda: "")]
        )
    )
    assert [str(one) for one in found] == ["ok    a: fine", "FAIL  b: no way", "ok    c: "]
    with pytest.raises(PreflightError, match="FAIL  b: no way"):
        require(found)
    require([found[0], found[2]])
    with pytest.raises(KeyError):
        list(look_at([("d", lambda: fail(KeyError("bug")))]))


def test_a_caution_is_said_and_stops_nothing(capsys):
    found = list(look_at([("a", lambda: Caution("mend it"))]))
    require(found)
    assert capsys.readouterr().err == "warn  a: mend it\n"


def test_output_is_probed_and_left_clean(tmp_path):
    probe_output(str(tmp_path))
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        probe_output(str(tmp_path / "file" / "out"))


def test_an_output_where_no_run_could_be_begun_is_found(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(OSError, match="no hard links"):
        probe_output(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_local_paths_need_no_store():
    assert reach_stores(["/x", "y", "z"]) == "all paths are local"


def test_a_tracker_that_is_not_there_is_named_without_its_password(tmp_path):
    out = str(tmp_path)
    assert "none" in reach_tracker(ClaimsConfig(mlflow="none"), out)
    assert "sqlite" in reach_tracker(ClaimsConfig(), out)
    with pytest.raises(CheckError, match="does not answer") as caught:
        reach_tracker(ClaimsConfig(mlflow="http://me:pa55word@127.0.0.1:9"), out)
    assert "pa55word" not in str(caught.value)
    with pytest.raises(ConfigError, match="--mlflow"):
        reach_tracker(ClaimsConfig(), "s3://bucket/out")


@pytest.mark.parametrize("address", [None, "local", "127.0.0.1:6379", "http://localhost:8265"])
def test_this_machine_needs_no_token(address, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    check_token(address)


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "http://head:8265", "ray://head:10001"])
def test_another_machine_needs_a_token(address, monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(JobError, match="RAY_AUTH_MODE is not set"):
        check_token(address)
    # Whoever joins asks, also commands that check nothing before.
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests may share a Ray
    with (
        pytest.raises(JobError, match="RAY_AUTH_MODE is not set"),
        Executor(address=address).join(),
    ):
        pass
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(JobError, match="there is no token"):
        check_token(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    assert check_token(address) == "token authentication"
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    token = tmp_path / ".ray/auth_token"
    token.parent.mkdir()
    token.write_text("x")
    for mode in (0o644, 0o640, 0o604, 0o620):
        token.chmod(mode)
        said = check_token(address)
        assert isinstance(said, Caution)
        assert f"mode {mode:04o}" in said
        assert said.endswith(f"chmod 600 {token}")
    for mode in (0o600, 0o400):
        token.chmod(mode)
        assert not isinstance(check_token(address), Caution)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "can run code" in check_token(address)


def test_budget_is_what_the_job_would_take():
    config = VotesConfig(data="x", weights="x")
    assert "actors: 4" in check_budget(config, numerics("cpu"), {"CPU": 8.0}, Executor())
    config = VotesConfig(data="x", weights="x", actors=90)
    with pytest.raises(ConfigError, match="fewer --actors"):
        check_budget(config, numerics("cpu"), {"CPU": 1.0}, Executor())


MIXED = {"CPU": 32.0, "GPU": 6.0, "GPU:L4": 4.0, "GPU:T4": 2.0}


def test_gpus_of_several_models_are_refused_unless_one_is_named():
    with pytest.raises(ConfigError, match=r"4 x L4, 2 x T4.*--accelerator-type L4"):
        plan_resources(MIXED, numerics("cuda"), None, 100)
    share = plan_resources(MIXED, numerics("cuda"), None, 100, "L4")
    assert (share.actors, share.accelerator_type) == (4, "L4")
    with pytest.raises(ConfigError, match="has 2 T4 GPUs"):
        plan_resources(MIXED, numerics("cuda"), 3, 100, "T4")
    # On CPUs the GPUs do not matter, and one that is not there yet may be started.
    assert plan_resources(MIXED, numerics("cpu"), 2, 100, "L4").accelerator_type is None
    assert plan_resources(MIXED, numerics("cuda"), 3, 100, "H100").actors == 3
    check_accelerators({"GPU": 4.0, "GPU:L4": 4.0}, None)
