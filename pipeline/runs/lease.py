"""A lease on a run, so that a job submitted twice does not do its work twice.

It saves time and nothing else: commits are idempotent, so two jobs at once write the same votes.
The lease is one small file with its holder and its end, renewed by heartbeats. Creating it is
exclusive (a hard link locally, a conditional put on S3). A lease that has run out, or whose process
on this host is gone, goes to the job that writes it last; an earlier holder sees this at its next
heartbeat and stops. Ends are wall-clock times: clocks should agree within half a minute.
"""

import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace

from pipeline import storage
from pipeline.runs.store import StoreError

TIME_TO_LIVE = 120.0
"""Seconds for which a lease holds without a heartbeat."""

_BEATS = 4  # heartbeats in that time
_SETTLE_SECONDS = 0.5  # two that take over at once write within this
_POLL_SECONDS = 2.0
_HIDDEN = "unknown"  # in place of the birth of a process that is there


class LeaseError(StoreError):
    """Another job holds the run."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The job that holds a lease.

    Attributes:
        token: Different for every job.
        host: Name of the driver's host.
        pid: Process of the driver.
        birth: Boot, container and start time of the process, where the system has them.
        since: Time of taking, in seconds of the epoch.
        until: Time at which it runs out unless renewed.
    """

    token: str
    host: str
    pid: int
    birth: str | None
    since: float
    until: float

    @property
    def is_gone(self) -> bool:
        """True where the lease has run out, or its process on this host has ended."""
        if time.time() > self.until:
            return True
        same_host = self.birth is not None and self.birth.split()[:2] == _host()
        return same_host and _birth(self.pid) not in (self.birth, _HIDDEN)

    def __str__(self) -> str:
        since, until = (
            time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)) for at in (self.since, self.until)
        )
        return f"process {self.pid} on {self.host}, since {since}, until {until} UTC unless renewed"


class Lease:
    """One job's hold on a run, made by :func:`hold_lease`."""

    def __init__(self, path: str, what: str) -> None:
        now = time.time()
        self.path, self.what = path, what
        self._mine = Holder(
            token=uuid.uuid4().hex,
            host=platform.node(),
            pid=os.getpid(),
            birth=_birth(os.getpid()),
            since=now,
            until=now + TIME_TO_LIVE,
        )
        self._lost_to: Holder | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lease")

    def check(self) -> None:
        """Raise LeaseError if another job has taken the lease over."""
        if self._lost_to is not None:
            raise LeaseError(
                f"{self.what}: no heartbeat of this job came through for {TIME_TO_LIVE:g} s, and "
                f"{self._lost_to} took the run over; what is committed stays"
            )

    def take(self) -> Holder | None:
        """Try to take the lease; return the other job that holds it, or None."""
        while not storage.create(self.path, self._renewed()):
            found = self._read()
            if storage.exists(self.path) if found is None else found.is_gone:
                storage.write_atomically(self.path, self._renewed())
                time.sleep(_SETTLE_SECONDS)
                found = self._read()
            if found is None:
                continue  # released in between
            if found.token != self._mine.token:
                return found
            break  # also if it was created, but the answer was lost and the request repeated
        self._thread.start()
        return None

    def release(self) -> None:
        """Give the lease back, unless another job has it by now."""
        self._ended.set()
        self._thread.join()
        # A lease that cannot be removed runs out.
        with suppress(*storage.failures()):
            found = self._read()
            if found is not None and found.token == self._mine.token:
                storage.remove(self.path)

    def _renewed(self) -> bytes:
        self._mine = replace(self._mine, until=time.time() + TIME_TO_LIVE)
        return json.dumps(asdict(self._mine)).encode()

    def _read(self) -> Holder | None:
        """The holder in the file; None if there is no file, or it is not a lease."""
        try:
            return Holder(**json.loads(storage.read_bytes(self.path)))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _beat(self) -> None:
        while not self._ended.wait(TIME_TO_LIVE / _BEATS):
            # A store that is away for a while costs heartbeats, never the job.
            with suppress(*storage.failures()):
                found = self._read()
                if found is not None and found.token != self._mine.token:
                    self._lost_to = found
                    return
                storage.write_atomically(self.path, self._renewed())


@contextmanager
def hold_lease(path: str, what: str, *, wait: bool) -> Iterator[Lease]:
    """Hold a lease while the block runs, and release it at its end.

    Args:
        path: The lease's file.
        what: Name of the run, for messages.
        wait: Wait for the other job rather than refuse.

    Raises:
        LeaseError: Another job holds it, named.
    """
    lease, announced = Lease(path, what), False
    while (holder := lease.take()) is not None:
        clocks = ""
        if holder.until > time.time() + 2 * TIME_TO_LIVE:
            clocks = (
                "\nNo lease is that long, so the clock of one of the two machines is wrong: once "
                f"that job has ended, remove {path}"
            )
        if not wait:
            raise LeaseError(
                f"{what}: another job is at it ({holder}). Both would write the same votes: wait "
                f"for it with --wait, or stop it first{clocks}"
            )
        if not announced:
            said = f"{what}: waiting for another job ({holder}){clocks}"
            print(said, file=sys.stderr, flush=True)
            announced = True
        time.sleep(_POLL_SECONDS)
    try:
        yield lease
    finally:
        lease.release()


def _host() -> list[str]:
    """Boot and container, within which a process number is unique; empty if unknown."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return [stream.read().strip(), os.readlink("/proc/self/ns/pid")]
    return []


def _birth(pid: int) -> str | None:
    """Identity of the process of this number; None if there is none; or ``_HIDDEN``."""
    with suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
        # The name, in parentheses, may hold spaces; the start time is field 22.
        fields = stream.read().rpartition(")")[2].split()
        if fields[0] not in "ZX":
            return " ".join([*_host(), fields[19]])
        return None
    try:
        os.kill(pid, 0)
    except PermissionError:  # another user's, which /proc may hide (hidepid)
        return _HIDDEN
    except OSError:
        pass
    return None
