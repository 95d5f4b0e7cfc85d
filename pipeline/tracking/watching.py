"""A run in MLflow while it votes: there from the first minute on, with the machine's load."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

from pipeline.config import ClaimsConfig
from pipeline.runs.manifest import Manifest
from pipeline.tracking.certified import open_mlflow_run
from pipeline.tracking.server import Tracker, connect, failures_said, tracking_uri

# MLflow's own switch.
_SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
_SECONDS_BETWEEN_SAMPLES = 10.0


@contextmanager
def watched(manifest: Manifest, claims: ClaimsConfig, out: str) -> Iterator[None]:
    """Show a run as running while the body votes, and as failed where it fails.

    CPU, memory, disk and network of the driver's machine are logged every 10 s under ``system/``
    (GPUs too where nvidia-ml-py is installed), unless MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is
    false. Nothing that MLflow raises ends the votes, or keeps them from beginning.
    """
    if tracking_uri(claims, out) is None:
        yield
        return
    begun: tuple[Tracker, str, Any | None] | None = None
    with failures_said(claims, out, "The votes begin all the same; at their end it is tried again"):
        tracker = connect(claims, out)
        assert tracker is not None
        run = open_mlflow_run(tracker, manifest)
        tracker.client.update_run(run, status="RUNNING")
        begun = tracker, run, _monitor(run, tracker.uri)
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    finally:
        if begun is not None:
            _end(*begun, status)


def _end(tracker: Tracker, run: str, monitor: Any | None, status: str) -> None:
    # What is logged afterwards says so where the server has gone for good.
    with suppress(Exception):
        if monitor is not None:
            monitor.finish()
        tracker.client.set_terminated(run, status=status)


def _monitor(run: str, uri: str) -> Any | None:
    """MLflow's monitor of this machine, at work; None where it is switched off or cannot be."""
    if os.environ.get(_SWITCH, "true").lower() in ("false", "0") or find_spec("psutil") is None:
        return None
    from mlflow.system_metrics.system_metrics_monitor import (  # noqa: PLC0415
        SystemMetricsMonitor,
    )

    monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
        run, sampling_interval=_SECONDS_BETWEEN_SAMPLES, resume_logging=True, tracking_uri=uri
    )
    monitor.start()
    return monitor
