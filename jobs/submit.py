"""``patchcert submit``: a command as a job of a Ray cluster, its log and its exit code here."""

import asyncio
import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

from cyclopts import Parameter

from jobs.config_file import config_files
from models.errors import JobError
from pipeline.config import ConfigError
from pipeline.preflight.findings import Finding, require
from pipeline.preflight.stores import FIRST_CONTACT_SECONDS
from pipeline.preflight.workers import check_token
from pipeline.storage.addresses import holds_password, redact

_PACKAGES = ("jobs", "models", "pipeline")
# Ray's dashboard refuses more than 100 MiB; code is some hundred kilobytes.
_MOST_MIB = 64
_CARRIED = "submitted"  # folder, on the cluster, of files sent along
_POLL_SECONDS = 1.0
# What Ray asks instead of the address that it is given.
_RAYS_OWN = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_NOT_SENT = shutil.ignore_patterns("__pycache__", "*.pyc")


class SubmitError(JobError):
    """The cluster did not take the job, or lost it."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SubmitConfig:
    """Cluster that a job is sent to.

    Attributes:
        address: Ray's dashboard, such as http://head:8265. The token, where there is one, comes
            from the environment (RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or ~/.ray/auth_token).
        include: Small files to send along (weights, a label map), found under the same path there.
        no_wait: Return once the job is submitted.
    """

    address: str
    include: tuple[str, ...] = ()
    no_wait: bool = False

    def __post_init__(self) -> None:
        if not self.address.startswith(("http://", "https://")):
            raise ConfigError(
                f"--address {self.address}: give the dashboard's, such as http://head:8265"
            )


def submit(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)], where: SubmitConfig
) -> int:
    """Send a command to a Ray cluster as a job, follow its log, and end with its exit code.

    Args:
        command: After --: the command, such as -- run --config run.yaml.
        where: Which cluster.

    Raises:
        ConfigError: The command or the files are not fit to be sent.
        CheckError: Another machine's cluster is to be used without a token.
        SubmitError: The cluster cannot be reached, refuses, or loses the job.
    """
    if not command or command[0].startswith("-") or command[0] == "submit":
        raise ConfigError("submit: write the command after --, such as -- run --config run.yaml")
    require([Finding("token", True, check_token(where.address))])
    others = [name for name in _RAYS_OWN if os.environ.get(name, "") not in ("", where.address)]
    unused = [f", and not {name}={redact(os.environ[name])}" for name in others]
    print(f"asking {where.address}{''.join(unused)}", file=sys.stderr, flush=True)
    # Emptied, so that these commands, too, ask the address that they are given.
    ray_job = " ".join([*(f"{name}=" for name in others), "ray job"])
    with packed(command, where.include) as (folder, entrypoint):
        client = _client(where.address)
        name = f"patchcert-{uuid.uuid4().hex[:12]}"
        try:
            job: str = client.submit_job(
                entrypoint=entrypoint,
                submission_id=name,
                # No credentials: everybody who sees the dashboard sees this.
                runtime_env={"working_dir": folder},
            )
        except _failures() as error:
            raise SubmitError(f"{where.address} refuses the job: {_first_line(error)}") from error
    print(f"job {job} on {where.address}", file=sys.stderr)
    print(f"stop it: {ray_job} stop --address {where.address} {job}", file=sys.stderr, flush=True)
    if where.no_wait:
        print(f"job_id={job}")
        return 0
    try:
        return _follow(client, job)
    except _failures() as error:
        raise SubmitError(
            f"job {job} is out of sight: {_first_line(error)}; it may go on: "
            f"{ray_job} status --address {where.address} {job}"
        ) from error
    except KeyboardInterrupt:
        print(f"no longer followed; job {job} goes on", file=sys.stderr)
        return 130


@contextlib.contextmanager
def packed(command: Sequence[str], include: Sequence[str]) -> Iterator[tuple[str, str]]:
    """A folder with what the job needs, and the job's command line in it.

    Raises:
        ConfigError: A file is absent, lies elsewhere than below this folder, or is too large, or an
            address holds a password.
    """
    _refuse_passwords(command)
    root, sent = Path(__file__).parents[1], list(command)
    with tempfile.TemporaryDirectory(prefix="patchcert-submit-") as name:
        folder = Path(name)
        for package in _PACKAGES:
            shutil.copytree(root / package, folder / package, ignore=_NOT_SENT)
        # The run's identity has the version, which is otherwise known only where it is installed.
        ours = version("patchcert")
        info = folder / f"patchcert-{ours}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: patchcert\nVersion: {ours}\n")
        for path in include:
            if Path(path).is_absolute() or ".." in Path(path).parts:
                raise ConfigError(
                    f"--include {path}: the job finds files under the same path, so give one below "
                    "this folder; larger data belong on s3://"
                )
            _carry(path, folder / path)
        for at, flag, path in config_files(command):
            place = f"{_CARRIED}/{Path(path).name}"
            _carry(path, folder / place)
            sent[at] = flag + place
        _refuse_large(folder)
        yield name, shlex.join(["python", "-m", "jobs", *sent])


def _refuse_passwords(command: Sequence[str]) -> None:
    """Raise ConfigError where the command, or a config file, has an address with a password."""
    found = [redact(token) for token in command if holds_password(token)]
    for _, _, path in config_files(command):
        lines = _existing(path).read_text("utf-8", "replace").splitlines()
        numbered = enumerate(lines, start=1)
        found += [f"{path}, line {number}" for number, line in numbered if holds_password(line)]
    if found:
        raise ConfigError(
            f"{found[0]}: whoever sees the dashboard sees what is submitted; leave user and "
            "password out of the address, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, on the cluster's nodes"
        )


def _carry(source: str, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_existing(source), place)


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file to send along")
    return Path(path)


def _refuse_large(folder: Path) -> None:
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    total = sum(sizes.values()) / 2**20
    if total > _MOST_MIB:
        largest = max(sizes, key=lambda path: sizes[path])
        raise ConfigError(
            f"{total:.0f} MiB to send, of which {largest.relative_to(folder)} is "
            f"{sizes[largest] / 2**20:.0f}: a job takes at most {_MOST_MIB} MiB along; put it on "
            "s3:// and give that address"
        )


def _client(address: str) -> Any:
    import requests  # noqa: PLC0415  (of Ray, which takes a second to import)
    from ray.job_submission import JobSubmissionClient  # noqa: PLC0415

    kept = {name: value for name, value in os.environ.items() if name not in _RAYS_OWN}
    try:
        # Ray's client would wait for an answer without end.
        requests.get(f"{address}/api/version", timeout=FIRST_CONTACT_SECONDS)
        with patch.dict(os.environ, kept, clear=True):
            return JobSubmissionClient(address)
    except _failures() as error:
        said = "it does not answer" if isinstance(error, OSError) else _first_line(error)
        raise SubmitError(
            f"{address} cannot be used: {said}; check the address, the tunnel "
            "(ray dashboard CLUSTER.yaml) and the token"
        ) from error


def _follow(client: Any, job: str) -> int:
    """Print the job's log while it runs; its exit code."""

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            print(text, end="", flush=True)

    # A dropped connection ends the log, not the job.
    with contextlib.suppress(*_failures()):
        asyncio.run(tail())
    while not client.get_job_status(job).is_terminal():
        time.sleep(_POLL_SECONDS)
    info = client.get_job_info(job)
    if info.status == "SUCCEEDED":
        return 0
    if (code := info.driver_exit_code or 0) <= 0:
        print(f"job {job} {info.status}: {info.message}", file=sys.stderr)
    return max(1, int(code))


def _failures() -> tuple[type[Exception], ...]:
    """Errors of Ray's client where the cluster is away, refuses, fails, or is none."""
    from ray.exceptions import RayError  # noqa: PLC0415  (Ray takes a second to import)

    return (RuntimeError, OSError, RayError, LookupError, TypeError, ValueError)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
