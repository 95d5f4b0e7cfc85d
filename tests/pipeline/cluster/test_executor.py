"""A Ray that does not start, is not there, or is something else."""

import contextlib
import os
import signal
import socket
import threading
import time

import pytest
import ray

from jobs.cli import main
from models.errors import JobError
from pipeline.cluster import connect
from pipeline.cluster.executor import LOCAL, Executor, find_executor


@pytest.fixture
def starts(monkeypatch):
    """Scripted starts of Ray: each raises an error, or nothing; ``starts.made`` counts them."""

    class Starts(list):
        made = 0

        def __call__(self, *_, **settings):
            self.made += 1
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray does
            if self and (error := self.pop(0)):
                raise error

    fake = Starts()
    monkeypatch.setattr(ray, "init", fake)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "nodes", list)
    # Set for Ray's processes; not for the tests that come after.
    for name in ("RAY_BACKEND_LOG_LEVEL", "RAY_gcs_server_port_wait_time_s"):
        monkeypatch.setenv(name, os.environ.get(name, "60"))
    return fake


SLOW = Exception("The current node timed out during startup. This could happen because ...")


def test_a_start_that_is_too_slow_is_made_again_and_said(starts, capfd):
    starts += [SLOW, SLOW, None]
    with LOCAL.join() as available:
        assert available == {"CPU": 2.0}
    said = capfd.readouterr().err
    assert "Ray did not start (The current node timed out" in said
    assert "again, 3 of 4" in said


@pytest.mark.parametrize("job", [LOCAL, Executor(address="auto")])
def test_a_job_has_one_ray_however_often_it_needs_one(starts, monkeypatch, job):
    """A local one from when it is first needed, if it ever is; a cluster from the beginning."""
    joined, left = [False], []
    monkeypatch.setattr(ray, "is_initialized", lambda: joined[0])
    monkeypatch.setattr(ray, "init", lambda *_, **__: joined.__setitem__(0, True))
    monkeypatch.setattr(ray, "shutdown", lambda: left.append(joined.__setitem__(0, False)))
    with job.join_for_job():
        assert joined == [job is not LOCAL]
        for _ in range(2):
            with job.join():
                assert joined == [True]
            assert joined == [True]
        assert not left
    assert (joined, len(left)) == ([False], 1)
    with pytest.raises(JobError), job.join_for_job(), job.join():
        raise JobError("the job fails")
    assert (joined, len(left)) == ([False], 2)
    with LOCAL.join_for_job():
        pass
    with job.join():
        assert joined == [True]
    assert (joined, len(left)) == ([False], 3)


def test_a_start_that_never_succeeds_ends_in_words(starts):
    starts += [SLOW] * 9
    with (
        pytest.raises(JobError, match=r"does not start.*timed out during.*run again"),
        LOCAL.join(),
    ):
        pass
    assert starts.made == 4


def test_what_waiting_does_not_change_is_said_at_once(starts):
    starts += [OSError("AF_UNIX path length cannot exceed 107 bytes")]
    with pytest.raises(JobError, match="AF_UNIX path length"), LOCAL.join():
        pass
    assert starts.made == 1


def test_our_handler_of_sigterm_survives_rays(starts):
    def ours(*_):
        pass

    before = signal.signal(signal.SIGTERM, ours)
    try:
        with LOCAL.join():
            assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_sigterm_during_rays_start_is_an_interruption(starts):
    starts += [SystemExit(15)]
    with pytest.raises(KeyboardInterrupt) as caught, LOCAL.join():
        pass
    assert caught.value.args == (signal.SIGTERM,)


@pytest.mark.parametrize("address", ["", " ", "http://head:8265", "head", "head:port", "a b"])
def test_an_address_that_nobody_can_join_is_refused(address, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert main(["certify", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"RAY_ADDRESS={address}:" in said
    assert "unset RAY_ADDRESS" in said


@pytest.mark.parametrize(
    ("address", "joined"),
    [
        (None, None),
        ("local", None),
        ("auto", "auto"),
        ("10.0.0.1:6379", "10.0.0.1:6379"),
        ("[fd00::1]:6379", "[fd00::1]:6379"),
        ("ray://head:10001", "ray://head:10001"),
    ],
)
def test_the_environment_decides_once(address, joined, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert find_executor(verbose=False) == Executor(address=joined)


@contextlib.contextmanager
def server(answer: bytes | None):
    """Answer one connection, or accept it and stay silent; yields HOST:PORT."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            connection, _ = listening.accept()
            with connection:
                connection.recv(100)
                if answer is None:
                    connection.recv(100)  # until the other side gives up
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def cannot_join(address: str) -> str:
    start = time.monotonic()
    with pytest.raises(JobError) as caught, Executor(address=address).join():
        pass
    assert time.monotonic() - start < 15
    assert f"RAY_ADDRESS={address}: no Ray cluster can be joined" in str(caught.value)
    return str(caught.value)


def test_a_cluster_that_is_not_there_is_named(starts, monkeypatch):
    monkeypatch.setattr(connect, "_REACH_SECONDS", 0.2)
    assert "refused" in cannot_join("127.0.0.1:1")
    with server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        assert "is not Ray" in cannot_join(address)
    with server(None) as address:
        assert "timed out" in cannot_join(address)
    assert starts.made == 0


def test_what_speaks_as_ray_does_is_joined(starts):
    with server(b"\0\0\0\4\0\0\0\0\0") as address, Executor(address=address).join():
        assert starts.made == 1
