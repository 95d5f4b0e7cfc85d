"""Name, tags and dataset of a run in MLflow, beside its figures."""

import json
import os
from pathlib import Path
from typing import Any

from pipeline.certificates.rules import uncovered
from pipeline.runs.manifest import Manifest
from pipeline.runs.schema import CertifiedEntry, ClaimEntry, Summary
from pipeline.runs.versions import git_revision
from pipeline.scoring.words import alerts, assumption, percent, threat

RUN_ID = "patchcert.run_id"
STRIDE = "patchcert.stride"
"""Tags that one MLflow run is found by: whose votes, and which stride of them where not all."""

DESCRIPTION = "mlflow.note.content"
_OURS = "**Certified** "
# Most models have it, and the image's side is a param.
_COMMON_SUFFIX = "_patch16_224"


def run_name(manifest: Manifest) -> str:
    """Such as ``deit_tiny column b4 s1 drop float32``."""
    defense = manifest.defense
    views, places = defense.views.describe().tags
    if defense.voting.draws is not None:
        places = f"draws{defense.voting.draws}"
    words = [
        defense.network.name.replace(_COMMON_SUFFIX, ""),
        views,
        places,
        defense.tokens,
        manifest.numerics.dtype,
    ]
    if manifest.defense.voting.theta is not None:
        words.append(f"theta{manifest.defense.voting.theta:g}")
    if manifest.data.limit is not None:
        words.append(f"first{manifest.data.limit}")
    return " ".join(words)


def tags_of(manifest: Manifest) -> dict[str, str]:
    """Tags to search for a run by, apart from its params."""
    tags = {
        RUN_ID: manifest.run_id,
        "patchcert.data": manifest.execution.data,
        "patchcert.data_fingerprint": manifest.data.fingerprint,
        "patchcert.weights": str(manifest.execution.weights),
        "patchcert.weights_sha256": manifest.defense.network.weights_sha256,
    }
    return tags | origin()


def origin() -> dict[str, str]:
    """The revision of this program and the Ray job it runs as, where there are such."""
    found = {"patchcert.git_revision": git_revision(), "patchcert.ray_job_id": ray_job_id()}
    tags = {name: value for name, value in found.items() if value is not None}
    if "patchcert.git_revision" in tags:
        # MLflow's own name of it, which its pages show.
        tags["mlflow.source.git.commit"] = tags["patchcert.git_revision"].removesuffix("-dirty")
    return tags


def ray_job_id() -> str | None:
    """Id of the submitted Ray job whose driver this process is."""
    try:
        config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        found: str | None = config["metadata"]["job_submission_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return found


def description(summary: Summary, before: str | None) -> str | None:
    """A line of Markdown with the headline; None where someone has written another."""
    if before is not None and not before.startswith(_OURS):
        return None
    coarser = {entry["stride"] for entry in summary["coarser"]}
    claims = [
        entry
        for entry in summary["certified_accuracy"]
        if entry["value"] is not None and entry["top_k"] == 1 and entry["stride"] not in coarser
    ]
    if not claims:
        return None
    shown = uncovered(entry["rule"] for entry in claims)
    parts = [
        f"{percent(entry['value'])} at {threat(entry, share=False)} ({_how(entry, summary)})"
        for entry in claims
        if entry["rule"] in shown
    ]
    smoothed = percent(summary["smoothed_accuracy"]["value"])
    unattacked = "" if summary["hides"] else f"Without a patch: {smoothed} smoothed. "
    return f"{_OURS}{', '.join(parts)}. {unattacked}{claims[0]['of']:,} images." + (
        f" {summary['basis']}." if "basis" in summary else ""
    )


def _how(entry: CertifiedEntry, summary: Summary) -> str:
    """The rule of a claim and what it assumes; of views that hide, its clean accuracy, too."""
    clean = f", clean {percent(entry['clean_accuracy']['value'])}" if summary["hides"] else ""
    return (
        f"{entry['rule']}{sure_of(entry)}{assumption(entry, ', {}')}{alerts(entry, ', {}')}{clean}"
    )


def sure_of(entry: ClaimEntry) -> str:
    """Describe the confidence of a probabilistic claim, which must never pass for a proof."""
    return "" if entry["confidence"] is None else f", confidence {entry['confidence']:g} an image"


def dataset_name(manifest: Manifest) -> str:
    """Name the images by the last part of their path."""
    place = Path(manifest.execution.data)
    # "*.tar" alone would say nothing.
    return f"{place.parent.name}/{place.name}" if set(place.name) & set("*?{[") else place.name


def dataset_input(manifest: Manifest) -> Any:
    """The images as an MLflow dataset: name, source, digest of their contents."""
    import warnings  # noqa: PLC0415

    from mlflow.data.dataset_source_registry import resolve_dataset_source  # noqa: PLC0415
    from mlflow.entities import Dataset, DatasetInput, InputTag  # noqa: PLC0415

    place = manifest.execution.data
    with warnings.catch_warnings():
        # A local path fits two of MLflow's source classes, which warns; either will do.
        warnings.simplefilter("ignore")
        source = resolve_dataset_source(place)
    dataset = Dataset(
        name=dataset_name(manifest),
        # MLflow takes digests of up to 36 characters.
        digest=manifest.data.fingerprint[:32],
        source_type=source._get_source_type(),
        source=source.to_json(),
        profile=json.dumps({"images": manifest.execution.images, "layout": manifest.data.kind}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "eval")])
