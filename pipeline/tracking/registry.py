"""Weights in MLflow's model registry, with the certificates of a run.

The file goes there as it is (safetensors: tensors and a header, no code); nothing is pickled.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.config import ClaimsConfig, ConfigError
from pipeline.runs.manifest import Manifest
from pipeline.runs.schema import Share, Summary
from pipeline.scoring.words import assumption, interval, threat
from pipeline.storage.addresses import redact
from pipeline.tracking.description import RUN_ID, origin, run_name, sure_of
from pipeline.tracking.points import certified_figures
from pipeline.tracking.server import Tracker, connect, failures_as_text

_WEIGHTS = "patchcert.weights_sha256"


class Registered(NamedTuple):
    """A version in the registry.

    Attributes:
        name: Of the model.
        version: Its number.
        new: False where this run's entry was there and was brought up to date.
    """

    name: str
    version: int
    new: bool


def register_weights(
    manifest: Manifest,
    summary: Summary,
    *,
    weights: Path,
    name: str,
    claims: ClaimsConfig,
    out: str,
) -> Registered:
    """Enter a run's weights into the model registry, once, with its certified figures.

    Args:
        manifest: The run.
        summary: What is certified of it.
        weights: The very file that voted.
        name: Of the model in the registry.
        claims: Which server and experiment.
        out: Folder of all results.

    Raises:
        ConfigError: The run is not logged there.
        TrackingError: MLflow failed.
    """
    with failures_as_text(claims, out, "Register again once it answers"):
        tracker = connect(claims, out)
        if tracker is None:
            raise ConfigError("--mlflow none: a model registry is a part of MLflow; give a server")
        found = tracker.find({RUN_ID: manifest.run_id})
        if found is None:
            raise ConfigError(
                f"run {manifest.run_id} is not in experiment {claims.experiment} of MLflow at "
                f"{redact(tracker.uri)}: log it with `patchcert certify --mlflow ... --experiment "
                "...`, or correct --mlflow and --experiment"
            )
        tags = _tags(manifest, summary)
        text = describe(manifest, summary)
        _ensure_model(tracker, name)
        version = _version_of(tracker, name, tags)
        new = version is None
        if version is None:
            run = found.info.run_id
            version = _create(tracker, run, name=name, weights=weights, tags=tags, text=text)
        else:
            for key, value in tags.items():
                tracker.client.set_model_version_tag(name, version, key, value)
            tracker.client.update_model_version(name, version, text)
    return Registered(name, int(version), new)


def _tags(manifest: Manifest, summary: Summary) -> dict[str, str]:
    figures = {
        point.name.replace("/", "."): f"{point.value:.6g}" for point in certified_figures(summary)
    }
    return {
        RUN_ID: manifest.run_id,
        _WEIGHTS: manifest.defense.network.weights_sha256,
        "patchcert.data": manifest.execution.data,
        "patchcert.data_fingerprint": manifest.data.fingerprint,
        **figures,
        **{key: value for key, value in origin().items() if key.startswith("patchcert.")},
    }


def describe(manifest: Manifest, summary: Summary) -> str:
    """Describe the certified accuracies of the weights, as Markdown."""
    lines = [
        f"Certified by run {manifest.run_id} ({run_name(manifest)}) on {summary['images']:,} "
        f"images of {manifest.execution.data}.",
        "",
        "| | % of images | 95 % interval |",
        "|---|---|---|",
    ]
    rows: list[tuple[str, Share]] = [
        ("plain, no patch", summary["plain_accuracy"]),
        ("smoothed, no patch", summary["smoothed_accuracy"]),
    ]
    rows += [
        (
            f"certified {threat(entry)}, {entry['rule']}"
            + sure_of(entry)
            + assumption(entry, ", {}")
            + (f", top {entry['top_k']}" if entry["top_k"] > 1 else "")
            + (
                f", stride {entry['stride']}"
                if entry["stride"] != manifest.defense.own_stride
                else ""
            ),
            entry,
        )
        for entry in summary["certified_accuracy"]
    ]
    lines += [
        f"| {what} | {100 * entry['value']:.1f} | {interval(entry)} |"
        for what, entry in rows
        if entry["value"] is not None
    ]
    return "\n".join(lines)


def _ensure_model(tracker: Tracker, name: str) -> None:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        tracker.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version_of(tracker: Tracker, name: str, tags: Mapping[str, str]) -> str | None:
    """The version that this run has entered before."""
    wanted = {key: tags[key] for key in (RUN_ID, _WEIGHTS)}
    for version in tracker.client.search_model_versions(f"name = '{name}'"):
        if wanted.items() <= version.tags.items():
            return str(version.version)
    return None


def _create(
    tracker: Tracker, run: str, *, name: str, weights: Path, tags: Mapping[str, str], text: str
) -> str:
    """Upload the file as a model of the run, and enter that as a new version; its number."""
    client = tracker.client
    model = client.create_logged_model(
        tracker.experiment, name=name, source_run_id=run, tags=dict(tags), model_type="safetensors"
    )
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(weights, Path(folder) / weights.name)
        client.log_model_artifacts(model.model_id, folder)
    client.finalize_logged_model(model.model_id, "READY")
    version = client.create_model_version(
        name,
        model.artifact_location,
        run_id=run,
        model_id=model.model_id,
        tags=dict(tags),
        description=text,
    )
    return str(version.version)
