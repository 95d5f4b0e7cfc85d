"""A certified run in MLflow: one MLflow run per ``run_id``, logged by the driver."""

import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from pipeline import storage
from pipeline.config import ClaimsConfig
from pipeline.runs.manifest import Manifest, flatten
from pipeline.runs.schema import Summary
from pipeline.runs.store import VotesStore
from pipeline.scoring.certify import Certified
from pipeline.storage.addresses import redact
from pipeline.tracking.description import (
    DESCRIPTION,
    RUN_ID,
    dataset_input,
    description,
    run_name,
    tags_of,
)
from pipeline.tracking.points import Point, points_of
from pipeline.tracking.record import where_logged
from pipeline.tracking.server import (
    Tracker,
    connect,
    failures_as_text,
    failures_said,
    tracking_uri,
)
from pipeline.tracking.tables import claims_table, log_table


def log_run(
    certified: Certified, pictures: Mapping[str, bytes], claims: ClaimsConfig, out: str
) -> bool:
    """Log a certified run, adding to its MLflow run where there is one.

    Args:
        certified: The run.
        pictures: PNG by name.
        claims: Where to log it.
        out: Folder of all results.

    Returns:
        False where MLflow failed, of which standard error has a line with the remedy.
    """
    if tracking_uri(claims, out) is None:
        return True
    manifest, summary = certified.manifest, certified.summary
    remedy = f"Votes and certificates are written; then log them: `{again(manifest, claims, out)}`"
    with failures_said(claims, out, remedy):
        tracker = connect(claims, out)
        assert tracker is not None
        run = open_mlflow_run(tracker, manifest)
        log_summary(tracker, run, manifest, summary)
        tracker.log_points(run, pace_of(manifest))
        client = tracker.client
        client.log_dict(run, summary, "summary.json")
        client.log_text(run, manifest.to_json().decode(), "manifest.json")
        for name, picture in pictures.items():
            log_bytes(tracker, run, f"{name}.png", picture)
        tracker.finish(run)
        return True
    return False


def again(manifest: Manifest, claims: ClaimsConfig, out: str) -> str:
    """The command that logs a run later, which computes nothing that is there already."""
    words = ["patchcert", "certify", "--run-id", manifest.run_id]
    words += ["--out", storage.full_path(out)]
    for field in fields(claims):
        value = getattr(claims, field.name)
        if value == field.default:
            continue
        words.append("--" + field.name.replace("_", "-"))
        if value is not True:
            words += [redact(str(one)) for one in (value if isinstance(value, tuple) else [value])]
    return shlex.join(words)


def open_mlflow_run(tracker: Tracker, manifest: Manifest) -> str:
    """Id of the MLflow run of a run, begun where there is none; tags and params are set."""
    found = tracker.find({RUN_ID: manifest.run_id})
    run = found or tracker.create(run_name(manifest), {RUN_ID: manifest.run_id})
    params = flatten(manifest.identity)
    tracker.set(run.info.run_id, tags=tags_of(manifest), params=params)
    return str(run.info.run_id)


def log_summary(tracker: Tracker, run: str, manifest: Manifest, summary: Summary) -> None:
    """Dataset, metrics, tables and headline of an MLflow run."""
    client = tracker.client
    client.log_inputs(run, datasets=[dataset_input(manifest)])
    tracker.log_points(run, points_of(summary))
    log_table(tracker, run, "certified_accuracy", claims_table(summary))
    text = description(summary, client.get_run(run).data.tags.get(DESCRIPTION))
    if text is not None:
        client.set_tag(run, DESCRIPTION, text)


def pace_of(manifest: Manifest) -> list[Point]:
    """Time of the votes; none where it was not recorded."""
    seconds = manifest.execution.voting_seconds
    if not seconds:
        return []
    images = manifest.execution.images
    return [Point("votes/seconds", seconds), Point("votes/images_per_second", images / seconds)]


def log_bytes(tracker: Tracker, run: str, name: str, data: bytes) -> None:
    """Log a file, in place of an earlier one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        tracker.client.log_artifact(run, str(path))


def log_page(
    store: VotesStore, page: bytes, mlflow: str | None = None, experiment: str | None = None
) -> str | None:
    """Add a run's page to its MLflow run; the tracking URI, None where it has no MLflow run.

    Args:
        store: The run.
        page: HTML.
        mlflow: Tracking server; None for where the run was logged.
        experiment: MLflow experiment; None for where the run was logged.

    Raises:
        TrackingError: MLflow failed.
    """
    claims = where_logged(store, mlflow, experiment)
    if tracking_uri(claims, store.out) is None:
        return None
    with failures_as_text(
        claims, store.out, "The page is written; then give the same command again"
    ):
        tracker = connect(claims, store.out)
        assert tracker is not None
        found = tracker.find({RUN_ID: store.run_id})
        if found is None:
            return None
        log_bytes(tracker, found.info.run_id, "report.html", page)
    return tracker.uri
