"""Jobs sent to a Ray head with a token: packed, followed, with the job's own exit code."""

import os
import subprocess
import sys
import time

import pytest

from jobs.cli import main
from pipeline import storage
from tests.conftest import REPOSITORY
from tests.faults.chaos import children, committed, kill, title
from tests.services.conftest import upload

FIXED = "microbatch: 16\nthreads: 1\nunit_images: 12\nactors: 1\nmax_error_rate: 1\n"


@pytest.fixture(scope="module")
def config(head, s3, shards, tiny_weights, tmp_path_factory):
    """A config file of this machine, whose job finds everything on S3."""
    upload(shards, f"{s3}/jobs/shards")
    upload(tiny_weights, f"{s3}/jobs/tiny.safetensors")
    path = tmp_path_factory.mktemp("config") / "run.yaml"
    path.write_text(
        f"data: {s3}/jobs/shards/*.tar\nweights: {s3}/jobs/tiny.safetensors\n"
        f"out: {s3}/jobs/out\n{FIXED}"
    )
    return path


def test_a_job_is_followed_to_its_exit_code(head, config, s3, capfd):
    assert (
        main(["submit", "--address", head.dashboard, "--", "votes", "--config", str(config)]) == 0
    )
    captured = capfd.readouterr()
    assert "run_id=r" in captured.out
    assert f"ray job stop --address {head.dashboard} patchcert-" in captured.err
    (run,) = storage.list_folders(f"{s3}/jobs/out/votes")
    assert f"run_id={run.removeprefix('run_id=')}" in captured.out
    # A request that is wrong is the job's 2, not our 1.
    wrong = ["--", "votes", f"--config={config}", "--stride", "0"]
    assert main(["submit", "--address", head.dashboard, *wrong]) == 2
    assert "--stride 0" in capfd.readouterr().out


def test_no_wait_returns_at_once_and_says_how_to_stop(head, config, capsys):
    from ray.job_submission import JobSubmissionClient

    address = ["--address", head.dashboard, "--no-wait"]
    assert main(["submit", *address, "--", "systems"]) == 0
    captured = capsys.readouterr()
    job = captured.out.strip().removeprefix("job_id=")
    assert f"{job}" in captured.err
    client = JobSubmissionClient(head.dashboard)
    deadline = time.monotonic() + 120
    while not client.get_job_status(job).is_terminal():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert client.get_job_status(job) == "SUCCEEDED"


def test_a_job_that_loses_its_actor_too_often_goes_on_in_another_pass(
    head, shards, tiny_weights, tmp_path
):
    """Ray restarts it three times; a fourth death ends the pass, and the next joins anew."""
    out, log = tmp_path / "out", tmp_path / "log"
    votes = ["votes", "--data", f"{shards}/*.tar", "--weights", tiny_weights, "--out", out]
    small = ["--microbatch=16", "--threads=1", "--unit-images=1", "--actors=1"]
    submit = [sys.executable, "-m", "jobs", "submit", "--address", head.dashboard, "--"]
    actors: list[int] = []
    with log.open("wb") as stream:
        job = subprocess.Popen(
            [*submit, *votes, *small, "--max-error-rate=1"], stdout=stream, stderr=stream
        )
        while job.poll() is None:
            actors += [pid for pid in _actors_below(head.pid) if pid not in actors]
            begun = len(actors) < 4 or committed(out)
            if actors and len(actors) < 5 and begun:
                kill(actors[-1])
            time.sleep(0.01)
    assert job.returncode == 0, log.read_text()
    assert len(actors) == 5, "of the second pass one was enough"
    assert b"23 of 23 images" in log.read_bytes()


def _actors_below(pid: int) -> list[int]:
    """Processes of voting actors among the descendants of a process."""
    below = children(pid, recursive=True)
    return [child for child in below if title(child).startswith("ray::MapWorker")]


def test_plain_ray_job_submit_works_too(head):
    done = subprocess.run(
        [
            *("ray", "job", "submit", "--address", head.dashboard, "--working-dir", "jobs/.."),
            *("--runtime-env-json", '{"excludes": ["out", ".venv", "tests", "docs", "examples"]}'),
            *("--", "python", "-m", "jobs", "run"),
            *("--stride", "0", "--data", "x", "--weights", "x"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert "--stride 0" in done.stdout + done.stderr
    assert done.returncode != 0


def test_without_the_token_the_cluster_refuses_and_nothing_is_sent(head):
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    environment.pop("RAY_AUTH_TOKEN_PATH")
    arguments = ["submit", "--address", head.dashboard, "--", "systems"]
    done = subprocess.run(
        [sys.executable, "-m", "jobs", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env=environment,
    )
    assert done.returncode == 1, done.stderr
    assert "token" in done.stderr
    assert "Traceback" not in done.stderr
