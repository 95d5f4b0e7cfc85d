"""Machines with no home, few CPUs, or long paths: seen before weights are loaded, in words."""

import os
import subprocess
import sys

import pytest
import ray

import jobs.doctor
import pipeline.voting.vote
from jobs.cli import main
from models.errors import JobError
from pipeline.cluster.session import check_session, own_ray
from pipeline.config import ClaimsConfig, OutputConfig, VotesConfig
from pipeline.runs import weight_files
from pipeline.runs.cpus import cpu_quotas, usable_cpus
from pipeline.runs.numerics import probe_machine, resolve_numerics
from pipeline.sources.stored_files import StoredFile
from tests.conftest import REPOSITORY
from tests.in_process import stages_here, votes_command

FOLDERS = ("RAY_TMPDIR", "TMPDIR")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (*FOLDERS, "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that what a test leaves is taken away
        monkeypatch.delenv(name)


def test_a_long_folder_is_refused_before_weights_are_loaded_and_the_remedy_works(
    shards, tiny_weights, tmp_path, monkeypatch, capsys
):
    stages_here(monkeypatch)
    monkeypatch.setenv("TMPDIR", "/tmp/" + 110 * "x")
    loaded, build = [], pipeline.voting.vote.build_classifier
    monkeypatch.setattr(
        pipeline.voting.vote, "build_classifier", lambda *given: loaded.append(1) or build(*given)
    )
    assert main(votes_command(shards, tiny_weights, tmp_path)) == 1
    said = capsys.readouterr().err
    assert "has 115" in said
    assert not loaded
    name, _, value = said.strip().rpartition(" ")[2].partition("=")
    assert name == "RAY_TMPDIR"
    monkeypatch.setenv(name, value)
    assert main(votes_command(shards, tiny_weights, tmp_path)) == 0
    assert loaded


def test_the_longest_folder_is_the_longest_that_ray_takes(monkeypatch):
    from ray._private.utils import validate_socket_filepath

    def socket(folder):
        return f"{folder}/ray/session_2026-11-28_14-45-28_947465_{os.getpid()}/sockets/plasma_store"

    longest = "/tmp/" + (107 - len(socket("/tmp/"))) * "x"
    validate_socket_filepath(socket(longest))
    monkeypatch.setenv("TMPDIR", longest)
    check_session()
    with pytest.raises(OSError, match="AF_UNIX"):
        validate_socket_filepath(socket(f"{longest}x"))
    monkeypatch.setenv("TMPDIR", f"{longest}x")
    with pytest.raises(JobError, match="RAY_TMPDIR=/tmp"):
        check_session()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # which Ray prefers
    check_session()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_nothing_can_be_created_in_is_named(name, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != "/")
    monkeypatch.setenv(name, "/absent-here/x")
    with pytest.raises(JobError, match=rf"{name}=/absent-here/x: .* created in /; set RAY_TMPDIR"):
        check_session()
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(JobError, match=name):
        check_session()
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # its sockets lie on other machines
    check_session()


def test_doctor_sees_it(tiny_weights, tmp_path, monkeypatch):
    given = VotesConfig(data="x", weights=str(tiny_weights)), ClaimsConfig(), OutputConfig()
    found = next(
        one for one in jobs.doctor._findings(*given, bits=False) if one.name == "this machine"
    )
    assert found.ok
    assert f"{usable_cpus()}" in found.said
    monkeypatch.setenv("TMPDIR", "/tmp/" + 110 * "x")
    found = next(
        one for one in jobs.doctor._findings(*given, bits=False) if one.name == "this machine"
    )
    assert not found.ok


def test_ray_and_actors_get_the_cpus_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 60}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert check_session().startswith("2 of 64 CPUs")
    assert own_ray()["num_cpus"] == 2
    config = VotesConfig(data="-", weights="-", device="cpu")
    assert resolve_numerics(config, probe_machine("cpu")).threads == 2


@pytest.mark.parametrize(
    ("membership", "files", "quotas"),
    [
        ("0::/\n", {}, []),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, [1.5]),
        # In a container: its own group is the root of what it sees, whatever it is called outside.
        ("0::/docker/c\n", {"cpu.max": "200000 100000"}, [2.0]),
        (
            "3:cpuset:/\n1:cpu,cpuacct:/docker/c\n",
            {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
            [0.5],
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
    ],
)
def test_quotas_of_control_groups(membership, files, quotas, tmp_path):
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(f"{text}\n")
    assert list(cpu_quotas(tmp_path / "membership", tmp_path / "groups")) == quotas


def test_a_quota_below_one_cpu_is_one(monkeypatch):
    monkeypatch.setattr("pipeline.runs.cpus.cpu_quotas", lambda: iter([0.5]))
    assert usable_cpus() == 1


def test_the_token_of_a_local_ray_is_in_memory_and_stays_the_same(tmp_path, monkeypatch):
    """Ray keeps the first that it has seen, also when it is started again."""
    given = []
    monkeypatch.setattr(ray, "init", lambda **_: given.append(os.environ.get("RAY_AUTH_TOKEN")))
    for _ in range(2):
        own_ray()
        ray.init()
    assert given[0] == given[1]
    assert len(given[0]) == 64
    monkeypatch.setenv("RAY_AUTH_TOKEN", "theirs")
    own_ray()
    assert os.environ["RAY_AUTH_TOKEN"] == "theirs"
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    stored = tmp_path / ".ray/auth_token"
    stored.parent.mkdir()
    stored.write_text("what Ray once wrote")
    stored.chmod(0o644)
    own_ray()
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert stored.stat().st_mode & 0o777 == 0o640
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(stored.rename(tmp_path / "theirs")))
    own_ray()
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.parametrize("name", ["PATCHCERT_CACHE", "HOME"])
def test_a_home_that_cannot_hold_weights_is_named_with_the_remedy(name, tmp_path, monkeypatch):
    monkeypatch.delenv("PATCHCERT_CACHE", raising=False)
    monkeypatch.setenv(name, "/dev/null/home")
    stored = StoredFile(path="s3://b/w.safetensors", size=3, etag="e")
    monkeypatch.setattr(weight_files, "stat", lambda _: stored)
    monkeypatch.setattr(weight_files.storage, "read_bytes", lambda _: b"abc")
    with pytest.raises(JobError, match=r"/dev/null/home.*set PATCHCERT_CACHE") as caught:
        weight_files.local_weights("s3://b/w.safetensors")
    assert "s3://b/w.safetensors" in str(caught.value)
    monkeypatch.setenv("PATCHCERT_CACHE", str(tmp_path))
    with open(weight_files.local_weights("s3://b/w.safetensors"), "rb") as copy:
        assert copy.read() == b"abc"


@pytest.mark.services
def test_a_local_run_writes_nothing_into_the_home_folder(shards, tiny_weights, tmp_path):
    """As with the root folder for a home, and a user that may not write there."""
    environment = {**os.environ, "HOME": "/dev/null/home"}
    command = [sys.executable, "-m", "jobs", *votes_command(shards, tiny_weights, tmp_path / "out")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment
    )
    assert done.returncode == 0, done.stderr
