"""The tracking server: which one, how its runs are found, and its failures in words."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import JobError
from pipeline import storage
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.storage.addresses import redact, without_userinfo
from pipeline.tracking.points import Point

# By this MLflow's pages show charts and models first, rather than prompts.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
# As many as a tracking server takes in one request.
_METRICS_AT_ONCE, _PARAMS_AT_ONCE = 1000, 100


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
    return f"sqlite:///{Path(storage.full_path(out)) / 'mlflow.db'}"


def experiment_id(claims: ClaimsConfig, uri: str, out: str) -> str:
    """Id of the experiment at ``uri``, created where it does not exist."""
    client = quiet_client(uri)
    experiment = client.get_experiment_by_name(claims.experiment)
    if experiment is not None:
        return str(experiment.experiment_id)
    # By default artifacts of an sqlite store would land in the working directory.
    own = claims.mlflow is None
    location = (Path(storage.full_path(out)) / "mlflow-artifacts").as_uri() if own else None
    return str(client.create_experiment(claims.experiment, artifact_location=location, tags=_KIND))


def quiet_client(uri: str) -> Any:
    """An MLflow client that neither reports home nor narrates."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow  # noqa: PLC0415  (two seconds, and unneeded where tracking is off)

    # Alembic narrates each migration of a new sqlite file.
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow.MlflowClient(uri, uri)


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
    return Tracker(uri, experiment_id(claims, uri, out), quiet_client(uri))


@contextmanager
def failures_as_text(claims: ClaimsConfig, out: str, remedy: str) -> Iterator[None]:
    """Turn what MLflow raises into a TrackingError that ends with ``remedy``."""
    uri = redact(tracking_uri(claims, out) or "none")
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or _is_mlflows(error):
            first = redact((str(error).splitlines() or [type(error).__name__])[0])
            raise TrackingError(f"MLflow at {uri}: {first}. {remedy}") from error
        raise


def _is_mlflows(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    return isinstance(error, MlflowException)
