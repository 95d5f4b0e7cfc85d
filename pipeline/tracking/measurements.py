"""Measurements of speed in MLflow: each a run of its own, since each is of its moment."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config import ClaimsConfig
from pipeline.runs.manifest import flatten
from pipeline.storage.addresses import redact
from pipeline.tracking.description import origin
from pipeline.tracking.points import Point
from pipeline.tracking.server import connect, failures_as_text
from pipeline.tracking.tables import log_table

# What MLflow takes in the name of a metric.
_ILLEGAL = re.compile(r"[^\w/:. -]")


def log_measurement(
    name: str,
    result: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    mlflow: str,
    experiment: str,
) -> str:
    """Log a measurement: figures as metrics, settings as params, hardware as tags.

    Args:
        name: What was measured, in words.
        result: Everything found, plain JSON; ``hardware`` in it names the machine.
        settings: Settings of the measurement.
        mlflow: Tracking server.
        experiment: MLflow experiment.

    Returns:
        The server's address without a password.

    Raises:
        TrackingError: MLflow failed.
    """
    claims = ClaimsConfig(mlflow=mlflow, experiment=experiment)
    with failures_as_text(claims, "", "Measure again with --json to keep the figures"):
        tracker = connect(claims, "")
        assert tracker is not None, "a server was given"
        run = str(tracker.create(name, {}).info.run_id)
        hardware = {
            f"hardware.{key}": str(value) for key, value in flatten(result["hardware"]).items()
        }
        tracker.set(run, tags=hardware | origin(), params=flatten(dict(settings)))
        figures = {key: value for key, value in result.items() if key != "hardware"}
        tracker.log_points(run, list(points_in(figures)))
        tracker.client.log_dict(run, dict(result), "measurement.json")
        paces = result.get("engine", {}).get("paces", [])
        log_table(tracker, run, "paces", paces)
        tracker.finish(run)
    return redact(tracker.uri)


def points_in(value: Any, prefix: str = "") -> Iterator[Point]:
    """Every number in nested JSON as a metric, named by the keys that lead to it.

    In lists an entry goes by its ``name`` and ``dtype``, whichever it has.
    """
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield Point(_ILLEGAL.sub("", prefix).strip("/"), float(value))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key != "settings":  # they are params
                yield from points_in(inner, f"{prefix}/{key}")
    elif isinstance(value, list):
        for entry in value:
            if isinstance(entry, Mapping):
                called = [str(entry[key]) for key in ("name", "dtype") if key in entry]
                yield from points_in(entry, f"{prefix}/{' '.join(called)}")
