"""One job at a run at a time, whoever dies; the clock is turned by editing the file."""

import json
import multiprocessing
import os
import threading
import time
from contextlib import nullcontext

import pytest

from pipeline import storage
from pipeline.runs import lease
from pipeline.runs.lease import Holder, LeaseError, hold_lease


@pytest.fixture
def path(tmp_path):
    return tmp_path / "leases" / "run_id=r1.json"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "_SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(lease, "_POLL_SECONDS", 0.01)


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def hold(path, *, wait=False):
    return hold_lease(str(path), "run_id=r1", wait=wait)


def test_the_second_is_told_who_holds_it_and_until_when(path):
    with hold(path):
        holder = Holder(**json.loads(path.read_text()))
        assert holder.pid == os.getpid()
        assert 100 < holder.until - time.time() <= lease.TIME_TO_LIVE
        with pytest.raises(LeaseError) as caught, hold(path):
            pass
        message = str(caught.value)
        until = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(holder.until))
        for part in ("run_id=r1", f"process {os.getpid()} on", f"until {until} UTC", "--wait"):
            assert part in message
        assert Holder(**json.loads(path.read_text())) == holder
    assert not path.exists()


def test_given_back_after_a_failure(path):
    with pytest.raises(ZeroDivisionError), hold(path):
        raise ZeroDivisionError
    with hold(path):
        assert path.exists()


def test_waiting_until_the_other_ends(path, capsys):
    events = []
    first = hold(path)
    first.__enter__()

    def second():
        with hold(path, wait=True):
            events.append("second began")

    waiter = threading.Thread(target=second)
    waiter.start()
    while not capsys.readouterr().err.startswith("run_id=r1: waiting for another job (process"):
        time.sleep(0.005)
    events.append("first ends")
    first.__exit__(None, None, None)
    waiter.join()
    assert events == ["first ends", "second began"]


@pytest.mark.parametrize(
    "changes",
    [
        {"until": 0.0, "birth": None, "host": "elsewhere"},
        {"birth": "gone"},
    ],
)
def test_what_has_run_out_or_lost_its_process_is_taken_over(path, changes):
    with hold(path) as first:
        found = json.loads(path.read_text())
        if changes.get("birth") == "gone":
            # The same host and number, another start: the process was killed.
            changes = {"birth": " ".join([*found["birth"].split()[:2], "1"])}
        rewrite(path, token="other", **changes)
        with hold(path) as second:
            assert json.loads(path.read_text())["token"] == second._mine.token
        assert not path.exists()
        first.check()


@pytest.mark.parametrize(("answer", "gone"), [(PermissionError, False), (ProcessLookupError, True)])
def test_a_process_that_the_system_hides_is_not_thought_dead(path, monkeypatch, answer, gone):
    """Where /proc shows nobody another user's processes (hidepid)."""

    def refuse(pid, signal):
        assert signal == 0
        raise answer

    monkeypatch.setattr(os, "kill", refuse)
    with hold(path):
        found = json.loads(path.read_text())
        rewrite(path, token="other", pid=2**22 + 1)
        with nullcontext() if gone else pytest.raises(LeaseError), hold(path):
            pass
        path.write_text(json.dumps(found))


def test_another_hosts_process_is_never_thought_dead(path):
    with hold(path):
        found = json.loads(path.read_text())
        rewrite(path, token="other", birth="boot pid 1", pid=2**22 + 1)
        with pytest.raises(LeaseError), hold(path):
            pass
        rewrite(path, **found)


def test_a_lease_of_a_clock_years_ahead_is_dated_and_can_be_removed(path):
    with hold(path):
        found = json.loads(path.read_text())
        until = found["until"] + 10 * 365 * 86400
        rewrite(path, token="other", birth="boot pid 1", until=until)
        with pytest.raises(LeaseError) as caught, hold(path):
            pass
        assert f"until {time.strftime('%Y-%m-%d', time.gmtime(until))} " in str(caught.value)
        remedy = str(caught.value).rpartition("once that job has ended, remove ")[2]
        assert remedy == str(path)
        path.unlink()
        with hold(path):
            assert path.exists()


def test_a_lease_that_goes_while_it_is_taken_over_is_taken_anew(path, monkeypatch):
    """Its new holder had nothing to do: for a moment there is no lease, and it is nobody's."""
    write, removed = storage.write_atomically, []

    def written_and_released(name, data):
        write(name, data)
        if name == str(path) and not removed:
            removed.append(name)
            path.unlink()

    path.parent.mkdir()
    path.write_text("{}")
    monkeypatch.setattr(storage, "write_atomically", written_and_released)
    with hold(path) as mine:
        assert removed
        assert json.loads(path.read_text())["token"] == mine._mine.token
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{}", "[1]", "not JSON"])
def test_garbage_is_no_lease(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with hold(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_heartbeats_renew_and_notice_a_takeover(path, monkeypatch):
    monkeypatch.setattr(lease, "TIME_TO_LIVE", 0.2)
    with hold(path) as mine:
        first = json.loads(path.read_text())["until"]
        while json.loads(path.read_text())["until"] <= first + 0.2:
            time.sleep(0.01)
        mine.check()
        rewrite(path, token="other", until=time.time() + 99)
        mine._thread.join()
        with pytest.raises(LeaseError, match="took the run over"):
            mine.check()
    assert path.exists()  # it is the other's


def test_its_own_lease_is_no_other_job(path, monkeypatch):
    """S3 wrote it, the answer was lost, and to the repeated request it is there already."""
    real = storage.create
    monkeypatch.setattr(storage, "create", lambda *given: real(*given) and False)
    with hold(path) as mine:
        assert json.loads(path.read_text())["token"] == mine._mine.token
        with pytest.raises(LeaseError), hold(path):
            pass
    assert not path.exists()


def _take(path, number, results, all_tried):
    try:
        with hold(path):
            results.put(number)
            all_tried.wait()
    except LeaseError:
        results.put(None)


def test_of_many_at_once_one_holds_it(path):
    context = multiprocessing.get_context("fork")
    results, all_tried = context.Queue(), context.Event()
    jobs = [context.Process(target=_take, args=(path, n, results, all_tried)) for n in range(6)]
    for job in jobs:
        job.start()
    got = [results.get(timeout=60) for _ in jobs]
    all_tried.set()
    for job in jobs:
        job.join()
    assert len([number for number in got if number is not None]) == 1
