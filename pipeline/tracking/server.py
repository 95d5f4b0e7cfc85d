"""The tracking server: which one, how its runs are found, and its failures in words."""

import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Thread
from traceback import walk_tb
from typing import Any
from unittest.mock import patch

from models.errors import JobError, RequestError
from pipeline import storage
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.storage.addresses import redact, without_userinfo
from pipeline.tracking.database import address_of, artifacts_beside, check_database, file_of
from pipeline.tracking.points import Point

# By this MLflow's pages show charts and models first, rather than prompts.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
# As many as a tracking server takes in one request.
_METRICS_AT_ONCE, _PARAMS_AT_ONCE = 1000, 100
# MLflow's own patience with a server is four minutes, of which it says nothing. A user's values,
# where there are any, win over both.
_BRIEF = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
_PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
_CONTACT_SECONDS, _QUIET_SECONDS = 13.0, 4.0
# Where a driver's package has another name than its module.
_PACKAGES = {
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
_DATABASES = ("postgresql", "mysql", "mssql")


class TrackingError(JobError):
    """The tracking server cannot be reached or refuses; votes and certificates are safe."""


def tracking_uri(claims: ClaimsConfig, out: str) -> str | None:
    """The tracking server to use; None where tracking is off.

    Raises:
        ConfigError: Results lie on S3, where sqlite cannot, and no server is given.
    """
    if claims.mlflow == "none":
        return None
    if claims.mlflow is not None:
        return claims.mlflow
    if out.startswith(storage.S3):
        raise ConfigError(
            f"--out {without_userinfo(out)}: an sqlite file cannot lie on S3; give --mlflow a "
            "server, or none"
        )
    return address_of(str(Path(storage.full_path(out)) / "mlflow.db"))


def how_to_look(uri: str) -> str:
    """The way to look at the runs of a server: a command to paste, or the address of its pages."""
    shown = redact(uri)
    if uri.startswith(("sqlite", *_DATABASES)):
        return f"mlflow ui --backend-store-uri {shlex.quote(shown)}"
    return shown


def quiet_client(uri: str) -> Any:
    """An MLflow client that neither reports home nor narrates."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name, value in _PATIENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: PLC0415  (two seconds, and unneeded where tracking is off)

    # Alembic narrates each migration of a new sqlite file. MLflow logs the traceback of what it
    # raises as well, and urllib3 each of its attempts.
    for name in ("alembic", "mlflow", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    own = file_of(uri) is not None
    # A pool would keep connections to a file that has been removed or replaced since.
    with patch.dict(os.environ, {"MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool"} if own else {}):
        return mlflow.MlflowClient(uri, uri)


@cache
def _new_database() -> bytes:
    """An sqlite file without runs, as this version of MLflow makes it, which takes seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        quiet_client(address_of(str(path)))
        return path.read_bytes()


def first_contact(uri: str) -> None:
    """Ask a server for anything, with little patience.

    Raises:
        OSError: It does not answer.
        Exception: Whatever MLflow raises of it.
    """

    def ask() -> None:
        try:
            if uri.startswith(_DATABASES):
                # MLflow would try ten times, and then make its tables, which may take longer.
                from sqlalchemy import create_engine  # noqa: PLC0415  (it comes with MLflow)

                create_engine(uri).connect().close()
            else:
                quiet_client(uri).search_experiments(max_results=1)
            answer.set_result(None)
        except Exception as error:
            answer.set_exception(error)

    import mlflow  # noqa: F401, PLC0415  (the wait below is for the server alone)

    answer: Future[None] = Future()
    set_by_user = {
        name for name in _BRIEF if os.environ.get(name, _PATIENT[name]) != _PATIENT[name]
    }
    brief = {} if set_by_user else _BRIEF
    with patch.dict(os.environ, brief):
        # A thread can be left to itself: names are looked up, and databases reached, without limit.
        Thread(target=ask, daemon=True).start()
        try:
            try:
                answer.result(_QUIET_SECONDS)
            except TimeoutError:
                if not answer.done():
                    print(f"waiting for MLflow at {redact(uri)}", file=sys.stderr, flush=True)
                answer.result(_CONTACT_SECONDS - _QUIET_SECONDS if brief else None)
        except TimeoutError as error:
            if answer.done():
                raise
            raise TimeoutError(f"no answer within {_CONTACT_SECONDS:g} s") from error


@dataclass(frozen=True)
class Tracker:
    """One experiment of a tracking server.

    Attributes:
        uri: The server.
        experiment: Id of the experiment.
        client: MLflow's client of that server.
    """

    uri: str
    experiment: str
    client: Any

    def find(self, tags: Mapping[str, str]) -> Any | None:
        """The newest MLflow run with these tags; None where there is none."""
        found = self.client.search_runs(
            [self.experiment],
            filter_string=" and ".join(f"tags.`{name}` = '{tags[name]}'" for name in tags),
            max_results=1,
        )
        return found[0] if found else None

    def create(self, name: str, tags: Mapping[str, str]) -> Any:
        """A new MLflow run, running."""
        # User and entry point, as MLflow itself would say them.
        from mlflow.tracking.context.registry import resolve_tags  # noqa: PLC0415

        return self.client.create_run(self.experiment, tags=resolve_tags(dict(tags)), run_name=name)

    def set(self, run: str, *, tags: Mapping[str, str], params: Mapping[str, Any]) -> None:
        """Set tags, and log params that are not there; those that are may not change."""
        from mlflow.entities import Param, RunTag  # noqa: PLC0415

        there = [RunTag(name, value) for name, value in tags.items()]
        logged = [Param(name, str(value)) for name, value in params.items()]
        self.client.log_batch(run, tags=there)
        for start in range(0, len(logged), _PARAMS_AT_ONCE):
            self.client.log_batch(run, params=logged[start : start + _PARAMS_AT_ONCE])

    def log_points(self, run: str, points: Sequence[Point]) -> None:
        """Log those points that are not what their step says last, so that nothing is twice."""
        from mlflow.entities import Metric  # noqa: PLC0415

        history: dict[str, set[tuple[int, float]]] = {}
        for name in {point.name for point in points} & set(self._metrics(run)):
            # What was logged last of a step counts: a value may come back.
            logged = sorted(self.client.get_metric_history(run, name), key=lambda m: m.timestamp)
            history[name] = set({one.step: one.value for one in logged}.items())
        now = int(time.time() * 1000)
        new = [
            Metric(point.name, point.value, now, point.step)
            for point in points
            if (point.step, point.value) not in history.get(point.name, ())
        ]
        for start in range(0, len(new), _METRICS_AT_ONCE):
            self.client.log_batch(run, metrics=new[start : start + _METRICS_AT_ONCE])

    def _metrics(self, run: str) -> dict[str, float]:
        metrics: dict[str, float] = self.client.get_run(run).data.metrics
        return metrics

    def finish(self, run: str) -> None:
        """Say that an MLflow run has come to its end; one that has keeps its time."""
        if self.client.get_run(run).info.status != "FINISHED":
            self.client.set_terminated(run, status="FINISHED")


def connect(claims: ClaimsConfig, out: str) -> Tracker | None:
    """The experiment to log to, created where it does not exist; None where tracking is off.

    Raises:
        ConfigError: No server is given where one is needed.
    """
    uri = tracking_uri(claims, out)
    if uri is None:
        return None
    artifacts = None
    if (path := file_of(uri)) is None:
        first_contact(uri)
    else:
        if not path.exists():
            # Whole or not at all, and by one of several jobs: MLflow makes it in hundreds of steps.
            storage.create(str(path.absolute()), _new_database())
        if claims.mlflow is None:
            # By default artifacts of an sqlite store would land in the working directory.
            artifacts = artifacts_beside(path)
        check_database(path, artifacts)
    client = quiet_client(uri)
    return Tracker(uri, _experiment_id(client, claims.experiment, artifacts), client)


def _experiment_id(client: Any, name: str, artifacts: str | None) -> str:
    """Id of an experiment, created where it does not exist, and restored where it was deleted."""
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts, tags=_KIND))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)  # another job was faster
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
        print(
            f"MLflow: experiment {name} had been deleted, and is restored with the runs in it",
            file=sys.stderr,
        )
    return str(found.experiment_id)


@contextmanager
def failures_as_text(claims: ClaimsConfig, out: str, remedy: str) -> Iterator[None]:
    """Turn what MLflow raises into a TrackingError that ends with ``remedy``."""
    uri = redact(tracking_uri(claims, out) or "none")
    try:
        yield
    except Exception as error:
        if (said := in_words(error)) is None:
            raise
        raise TrackingError(f"MLflow at {uri}: {said}. {remedy}") from error


@contextmanager
def failures_said(claims: ClaimsConfig, out: str, remedy: str) -> Iterator[None]:
    """Say what MLflow raises on standard error, and go on behind the body.

    What a job computes is worth more than its entry in MLflow, which can be made later.
    """
    try:
        with failures_as_text(claims, out, remedy):
            yield
    except TrackingError as error:
        print(f"patchcert: not logged: {error}", file=sys.stderr, flush=True)


def in_words(error: Exception) -> str | None:
    """The first line of what MLflow, or a library under it, raised; None for a bug of ours."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    foreign = {name.split(".")[0] for name in modules} & {"mlflow", "sqlalchemy"}
    if isinstance(error, RequestError) or not (foreign or isinstance(error, OSError)):
        return None
    if isinstance(error, ImportError):
        package = _PACKAGES.get(error.name or "", error.name)
        return f"its driver is not installed ({error}): `pip install {package}`"
    said = redact((str(error).splitlines() or [type(error).__name__])[0])
    if "Max retries exceeded" in said:
        # The cause is the last of urllib3's errors, each of which has the one before in it.
        said = said.rpartition("): ")[2].rstrip("\")'")
    return said.rstrip(".")
