"""MLflow, and nothing else knows of it: one MLflow run per ``run_id``, logged by the driver."""

import json
import logging
import os
import re
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.manifest import flatten
from pipeline.reduction import Certified

_TAG = "patchcert.run_id"
# As many as a tracking server takes in one request.
_METRICS_AT_ONCE = 1000


class TrackingError(RuntimeError):
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
            f"--out {out}: an sqlite file cannot lie on S3; give --mlflow a server, or none"
        )
    return f"sqlite:///{Path(storage.full_path(out)) / 'mlflow.db'}"


def log_run(certified: Certified, picture: bytes, claims: ClaimsConfig, out: str) -> str | None:
    """Log a certified run, resuming its MLflow run where there is one; the tracking URI.

    Raises:
        TrackingError: MLflow failed.
    """
    uri = tracking_uri(claims, out)
    if uri is None:
        return None
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow  # noqa: PLC0415  (two seconds, and unneeded where tracking is off)
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    # Alembic narrates each migration of a new sqlite file.
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri)
    try:
        experiment = experiment_id(claims, uri, out)
        run_id = certified.manifest.run_id
        found = mlflow.search_runs(
            [experiment],
            filter_string=f"tags.`{_TAG}` = '{run_id}'",
            output_format="list",
            max_results=1,
        )
        with mlflow.start_run(
            run_id=found[0].info.run_id if found else None,
            experiment_id=experiment,
            run_name=None if found else _run_name(certified),
        ):
            _log(certified, picture)
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"MLflow at {redact(uri)}: {redact(str(error).splitlines()[0])}. Votes, certificates "
            "and summary are written; run `patchcert certify` again once it answers"
        ) from error
    return uri


def redact(uri: str) -> str:
    """The URI without a password."""
    return re.sub(r"//[^/@]*@", "//***@", uri)


def experiment_id(claims: ClaimsConfig, uri: str, out: str) -> str:
    """Id of the experiment, created where it does not exist; of the tracking URI that is set."""
    import mlflow  # noqa: PLC0415

    experiment = mlflow.get_experiment_by_name(claims.experiment)
    if experiment is not None:
        return str(experiment.experiment_id)
    # By default artifacts of an sqlite store would land in the working directory.
    own = claims.mlflow is None
    location = (Path(storage.full_path(out)) / "mlflow-artifacts").as_uri() if own else None
    return str(mlflow.create_experiment(claims.experiment, artifact_location=location))


def _run_name(certified: Certified) -> str:
    identity = certified.manifest.identity
    ablation = identity["ablation"]
    name = identity["model"]["name"]
    return f"{name} {ablation['kind']} b{ablation['size']} s{ablation['stride']}"


def _log(certified: Certified, picture: bytes) -> None:
    """Params, tags, dataset, metrics and artifacts of the active MLflow run."""
    import mlflow  # noqa: PLC0415
    from mlflow.data.dataset_source_registry import resolve_dataset_source  # noqa: PLC0415
    from mlflow.data.meta_dataset import MetaDataset  # noqa: PLC0415

    manifest, summary = certified.manifest, certified.summary
    mlflow.log_params(flatten(manifest.identity))
    mlflow.set_tags({_TAG: manifest.run_id, "patchcert.data": manifest.execution["data"]})
    with warnings.catch_warnings():
        # A local path fits two of MLflow's source classes, which warns; either will do.
        warnings.simplefilter("ignore")
        source = resolve_dataset_source(manifest.execution["data"])
    # MLflow takes digests of up to 36 characters.
    digest = manifest.identity["data"]["fingerprint"][:32]
    name = Path(manifest.execution["data"]).name
    dataset = MetaDataset(source, name=name, digest=digest)  # type: ignore[abstract]
    mlflow.log_input(dataset, context="eval")
    metrics = {
        name: summary[name]["value"]
        for name in ("plain_accuracy", "smoothed_accuracy")
        if summary[name]["value"] is not None
    }
    if summary["mean_ablation_accuracy"] is not None:
        metrics["mean_ablation_accuracy"] = summary["mean_ablation_accuracy"]
    metrics |= {name: summary[name] for name in ("images", "images_with_error")}
    mlflow.log_metrics(metrics)
    _log_claims(summary)
    mlflow.log_dict(summary, "summary.json")
    mlflow.log_text(manifest.to_json().decode(), "manifest.json")
    columns = summary["certified_accuracy"][0].keys() if summary["certified_accuracy"] else ()
    table = {key: [entry[key] for entry in summary["certified_accuracy"]] for key in columns}
    if table:
        _log_table(table)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "certified_accuracy.png"
        path.write_bytes(picture)
        mlflow.log_artifact(str(path))


def _log_claims(summary: dict[str, Any]) -> None:
    """Log certified accuracies by patch size in pixels, and what alerts detect by tau."""
    import mlflow  # noqa: PLC0415

    points: list[tuple[str, float, int]] = []
    coarser = {entry["stride"] for entry in summary["coarser"]}
    for entry in summary["certified_accuracy"]:
        if entry["value"] is None:
            continue
        name = f"certified_accuracy/{entry['rule']}"
        if entry["confidence"] is not None:
            name += f"_{entry['confidence']:g}"
        if entry["top_k"] > 1:
            name += f"_top{entry['top_k']}"
        if entry["stride"] in coarser:
            name += f"_stride{entry['stride']}"
        if entry["patch_px"] is None:
            # Steps count pixels of a side; names allow no "<" and "=".
            name += "/" + entry["threat"].replace("<=", "_").replace(" ", "_")
        points.append((name, entry["value"], entry["patch_px"] or 0))
    for curve in (
        summary["detection"] if summary["images"] > summary["images_without_label"] else ()
    ):
        threat = curve["threat"].replace("<=", "_").replace(" ", "_")
        stride = f"_stride{curve['stride']}" if curve["stride"] in coarser else ""
        for name in ("clean", "certified_recovery", "certified_detection"):
            points += [
                (f"detection{stride}/{threat}/{name}", hits / curve["of"], tau)
                for tau, hits in zip(curve["tau"], curve[name], strict=True)
            ]
    now, run = int(time.time() * 1000), mlflow.active_run()
    assert run is not None, "called inside a run"
    metrics = [mlflow.entities.Metric(name, value, now, step) for name, value, step in points]
    for start in range(0, len(metrics), _METRICS_AT_ONCE):
        batch = metrics[start : start + _METRICS_AT_ONCE]
        mlflow.MlflowClient().log_batch(run.info.run_id, metrics=batch)


def _log_table(table: dict[str, list[Any]]) -> None:
    """Log the summary table, replacing an earlier one: mlflow.log_table would append to it."""
    import mlflow  # noqa: PLC0415

    columns = list(table)
    rows = [list(row) for row in zip(*table.values(), strict=True)]
    mlflow.log_text(json.dumps({"columns": columns, "data": rows}), "summary_table.json")
