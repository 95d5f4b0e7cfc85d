"""The Ray that a job starts for itself: its life, its sockets, its CPUs, its token.

Imports no Ray: a job that has nothing to compute starts none.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from models.errors import JobError
from pipeline.runs.cpus import usable_cpus

_FOLDERS = ("RAY_TMPDIR", "TMPDIR")
# Of a Unix socket's path on Linux, in bytes.
_LONGEST_SOCKET = 107
# As long as the longest socket that Ray makes below its folder, before the process's number.
_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_/sockets/plasma_store"


_end: ContextVar[ExitStack | None] = ContextVar("end of the job", default=None)


@contextmanager
def one_ray() -> Iterator[None]:
    """Keep a Ray that is joined or started within the block until the block's end.

    Starting one takes ten seconds and more of two cores.
    """
    with ExitStack() as end:
        before = _end.set(end)
        try:
            yield
        finally:
            _end.reset(before)


def end_of_job() -> ExitStack | None:
    """Return what ends with the block of ``one_ray``; None outside of one."""
    return _end.get()


def own_ray() -> dict[str, Any]:
    """Options of ``ray.init`` for a Ray of this process alone.

    Its token is the user's, kept from others, or one in memory: Ray would write a new one into the
    home folder, readable by everybody, and containers that run as a random user have no such one.

    Raises:
        JobError: Ray could not begin its session.
    """
    check_session()
    stored = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    if os.access(stored, os.R_OK):
        with suppress(OSError):  # it may be mounted, or another user's
            os.chmod(stored, os.stat(stored).st_mode & 0o770)
    else:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # No dashboard, which costs a second and a port. ``local``, since another Ray may be running
    # here that nobody asked to join.
    return {"address": "local", "include_dashboard": False, "num_cpus": usable_cpus()}


def check_session() -> str:
    """Check the folder of the sockets, unless a cluster is to be joined; say what was found.

    Raises:
        JobError: Its name is too long, or nothing can be created in it.
    """
    if os.environ.get("RAY_ADDRESS") not in (None, "", "local"):
        return "Ray is started elsewhere"
    name = next((name for name in _FOLDERS if name in os.environ), None)
    folder = os.path.join(os.sep, "tmp") if name is None else os.environ[name]
    where = folder if name is None else f"{name}={folder}"
    remedy = "set RAY_TMPDIR to a short path that can be written, such as RAY_TMPDIR=/tmp"
    room = _LONGEST_SOCKET - len(_SOCKET) - len(str(os.getpid()))
    if len(os.fsencode(folder)) > room:
        raise JobError(
            f"{where}: Ray's sockets lie below it, and their paths have at most "
            f"{_LONGEST_SOCKET} bytes, so it may have {room} and has {len(os.fsencode(folder))}; "
            f"{remedy}"
        )
    there = os.path.join(folder, "ray")
    while not os.path.exists(there):
        there = os.path.dirname(there) or "."
    if not os.access(there, os.W_OK | os.X_OK):
        raise JobError(
            f"{where}: Ray's files lie below it, and nothing can be created in {there}; {remedy}"
        )
    cpus, machine = usable_cpus(), os.cpu_count() or 1
    of = f" of {machine}" if machine > cpus else ""
    return f"{cpus}{of} CPUs for this process; Ray's files go to {folder}/ray"
