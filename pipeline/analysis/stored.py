"""Everything under ``<out>``, of one run or of all: Arrow datasets, and a row a run."""

import os
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs as arrow_fs

from pipeline import storage
from pipeline.runs.manifest import Manifest
from pipeline.runs.proof import BOND
from pipeline.runs.schema import (
    ATTACKS,
    CERTIFICATES,
    DETECTION,
    IMAGES,
    LOCATIONS,
    WITNESSES,
    votes_schema,
)
from pipeline.runs.store import StoreError, VotesStore, run_ids
from pipeline.scoring.datasets import metadata_of
from pipeline.storage.parallel import in_threads

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_RUN = "run_id="

RUNS = pa.schema(
    [
        pa.field("run_id", pa.string()),
        pa.field("started", pa.timestamp("s")),
        pa.field("finished", pa.timestamp("s")),
        pa.field("complete", pa.bool_()),
        pa.field("data", pa.string()),
        pa.field("data_fingerprint", pa.string()),
        pa.field("images", pa.int64()),
        pa.field("images_with_error", pa.int64()),
        pa.field("images_without_label", pa.int64()),
        pa.field("model", pa.string()),
        pa.field("num_classes", pa.int64()),
        pa.field("weights_sha256", pa.string()),
        pa.field("ablation", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("stride", pa.int64()),
        pa.field("random", pa.int64()),
        pa.field("draws", pa.int64()),
        pa.field("ablations", pa.int64()),
        pa.field("height", pa.int64()),
        pa.field("width", pa.int64()),
        pa.field("tokens", pa.string()),
        pa.field("theta", pa.float64()),
        pa.field("device", pa.string()),
        pa.field("dtype", pa.string()),
        pa.field("voting_seconds", pa.float64()),
        pa.field("plain_accuracy", pa.float64()),
        pa.field("smoothed_accuracy", pa.float64()),
        pa.field("mean_ablation_accuracy", pa.float64()),
        # Views asked of an image in the mean, where early exit asks fewer of some.
        pa.field("views_asked", pa.float64()),
    ]
)
"""One row a run: its manifest, and its summary where it has been certified."""

CLAIMS = pa.schema(
    [
        pa.field("run_id", pa.string()),
        pa.field("threat", pa.string()),
        pa.field("patch_px", pa.int32()),
        pa.field("rule", pa.string()),
        pa.field("top_k", pa.int32()),
        pa.field("stride", pa.int32()),
        pa.field("confidence", pa.float64()),
        pa.field("assumes", pa.string()),
        pa.field("tau", pa.float64()),
        # Share of the image's pixels that the threat may rewrite.
        pa.field("image_share", pa.float64()),
        pa.field("images_certified", pa.int64()),
        # Null of a rule that never raises one.
        pa.field("alerts", pa.int64()),
        # Of the labelled images, without a patch, by the rule's own answer.
        pa.field("clean_accuracy", pa.float64()),
        # Certified and right, of the labelled images, with the 95 % Wilson interval.
        pa.field("hits", pa.int64()),
        pa.field("of", pa.int64()),
        pa.field("accuracy", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
    ]
)
"""One row a run and claim: the certified accuracies of the summaries."""


def _nullable(schema: pa.Schema) -> pa.Schema:
    """The columns of a dataset with their run; files written before a column existed lack it."""
    # DuckDB reads no half floats from Arrow.
    wide = {pa.list_(pa.float16()): pa.list_(pa.float32())}
    columns = [pa.field(field.name, wide.get(field.type, field.type)) for field in schema]
    return pa.schema([*columns, pa.field("run_id", pa.string())])


DATASETS = {
    "votes": _nullable(
        votes_schema(views=True, vote_sets=True, gaps=True, labels=True, sizes=True)
    ),
    "images": _nullable(IMAGES),
    "certificates": _nullable(CERTIFICATES),
    "detection": _nullable(DETECTION),
    "locations": _nullable(LOCATIONS),
    "witnesses": _nullable(WITNESSES),
    "attacks": _nullable(ATTACKS),
}
"""Parquet files under ``<out>``, a ``run_id=`` folder a run, with their columns."""


def folder_of(out: str, name: str) -> str:
    """Return the path of a dataset: a folder of its name, but for one older than the name."""
    return storage.join(out, {"attacks": "attack"}.get(name, name))


def dataset(out: str, name: str, runs: Sequence[str] | None = None) -> "ds.Dataset":
    """One of ``DATASETS``, without a row where nothing has been written.

    Args:
        out: Folder of all results, local or s3://.
        name: Which dataset.
        runs: Only these runs; None for all.

    Raises:
        ManifestError: A run's manifest contradicts its id.
        StoreError: Its votes are not its own, or its rows were made from other votes.
    """
    # It imports pandas, which takes a second.
    import pyarrow.dataset as ds  # noqa: PLC0415

    schema = DATASETS[name]
    folder = folder_of(out, name)
    wanted = storage.list_folders(folder) if runs is None else [f"{_RUN}{run}" for run in runs]
    wanted = [run.removeprefix(_RUN) for run in wanted if run.startswith(_RUN)]
    listed = in_threads(lambda run: _proven_files(out, name, run), wanted)
    files = [path for paths in listed for path in paths]
    if not files:
        return ds.dataset(schema.empty_table())
    base = storage.filesystem(folder)[1]
    factory = ds.FileSystemDatasetFactory(
        _arrow_filesystem(out),
        [storage.filesystem(path)[1] for path in files],
        ds.ParquetFileFormat(),
        ds.FileSystemFactoryOptions(
            partition_base_dir=base,
            partitioning=ds.partitioning(pa.schema([schema.field("run_id")]), flavor="hive"),
        ),
    )
    return factory.finish(schema)


def _arrow_filesystem(path: str) -> arrow_fs.FileSystem:
    """Arrow's own file system, which needs no Python while threads of its own read ahead.

    A Python one would be called from those threads when the program ends in the middle of a scan,
    as after a LIMIT, and abort or hang it.
    """
    if not path.startswith(storage.S3):
        return arrow_fs.LocalFileSystem()
    # Credentials and region come from the environment, as everywhere.
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    given = urlsplit(next((os.environ[name] for name in names if os.environ.get(name)), ""))
    endpoint = {"endpoint_override": given.netloc, "scheme": given.scheme} if given.netloc else {}
    # A busy server, for up to a minute or so.
    patient = arrow_fs.AwsStandardS3RetryStrategy(max_attempts=10)
    return arrow_fs.S3FileSystem(retry_strategy=patient, **endpoint)


def data_files(out: str, name: str, run_id: str) -> list[str]:
    """Paths of the files of a run's rows in a dataset."""
    paths = storage.list_files(storage.join(folder_of(out, name), f"{_RUN}{run_id}"))
    names = ((path.rsplit("/", 1)[-1], path) for path in paths)
    return [p for name, p in names if name.endswith(".parquet") and not name.startswith((".", "_"))]


def _proven_files(out: str, name: str, run_id: str) -> list[str]:
    """The files of a run's rows in a dataset, if they belong to its votes as these are now."""
    files, store = data_files(out, name, run_id), VotesStore(out, run_id)
    manifest = store.read_manifest() if files else None
    if manifest is None:
        return []  # nobody's rows: the run was deleted, or is being deleted
    proof = store.proof(manifest)
    for path in files if name != "votes" else ():
        if made_from(path) not in (None, proof.sha256):
            raise StoreError(
                f"{path}: made from other votes than those that lie in {store.folder} now; run "
                f"`{made_by(name, path, run_id)}` again, or delete it"
            )
    return files


def made_by(name: str, path: str, run_id: str) -> str:
    """The command that makes a file of a dataset again."""
    # 16x48.parquet, 32px.parquet, 32px-<settings>.parquet: the patch is in the name.
    patch = re.split("[.-]", path.rsplit("/", 1)[-1])[0].removesuffix("px")
    of_patch = f" --patch {patch}" if name in ("locations", "witnesses", "attacks") else ""
    return f"{WRITTEN_BY[name]}{of_patch} --run-id {run_id}"


def made_from(path: str) -> str | None:
    """The digest of the votes that a file is made from; None of an earlier version's."""
    found = metadata_of(path).get(BOND)
    return None if found is None else found.decode()


WRITTEN_BY = {
    "runs": "patchcert votes",
    "claims": "patchcert certify",
    "votes": "patchcert votes",
    "certificates": "patchcert certify",
    "images": "patchcert certify",
    "detection": "patchcert certify --detect",
    "locations": "patchcert heatmap",
    "witnesses": "patchcert witness",
    "attacks": "patchcert attack",
}
"""The command that writes each dataset and table."""


def runs_and_claims(out: str) -> tuple[pa.Table, pa.Table]:
    """The tables ``RUNS`` and ``CLAIMS`` of every run that was begun.

    Raises:
        ManifestError: A manifest contradicts its id.
    """
    read = in_threads(lambda run_id: _read_run(out, run_id), run_ids(out))
    begun = [(row, claims) for row, claims in read if row is not None]
    claims = [claim for _, of_run in begun for claim in of_run]
    return (
        pa.Table.from_pylist([row for row, _ in begun], RUNS),
        pa.Table.from_pylist(claims, CLAIMS),
    )


def _read_run(out: str, run_id: str) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    store = VotesStore(out, run_id)
    manifest = store.read_manifest()
    if manifest is None:
        return None, []
    complete = store.is_complete(manifest)
    # Figures of votes that are gone are nobody's.
    summary: Mapping[str, Any] = (store.read_summary() if complete else None) or {}
    row = _run_row(manifest) | {
        "complete": complete,
        "images_with_error": summary.get("images_with_error"),
        "images_without_label": summary.get("images_without_label"),
        "plain_accuracy": summary.get("plain_accuracy", {}).get("value"),
        "smoothed_accuracy": summary.get("smoothed_accuracy", {}).get("value"),
        "mean_ablation_accuracy": summary.get("mean_ablation_accuracy"),
        "views_asked": summary.get("views_asked"),
    }
    entries = summary.get("certified_accuracy", [])
    return row, [
        {
            **entry,
            "run_id": run_id,
            "accuracy": entry["value"],
            "clean_accuracy": entry.get("clean_accuracy", {}).get("value"),
        }
        for entry in entries
    ]


def _run_row(manifest: Manifest) -> dict[str, Any]:
    execution, defense = manifest.execution, manifest.defense
    views = defense.views.describe()
    return {
        "run_id": manifest.run_id,
        "started": _moment(execution.started),
        "finished": _moment(execution.finished),
        "data": execution.data or None,
        "data_fingerprint": manifest.data.fingerprint or None,
        "images": execution.images,
        "model": defense.network.name,
        "num_classes": defense.network.num_classes,
        "weights_sha256": defense.network.weights_sha256 or None,
        "ablation": views.shape,
        "size": views.size,
        "stride": views.stride,
        "random": views.random,
        "draws": defense.voting.draws,
        "ablations": defense.votes_per_image,
        "height": defense.views.height,
        "width": defense.views.width,
        "tokens": defense.tokens,
        "theta": defense.voting.theta,
        "device": manifest.numerics.device,
        "dtype": manifest.numerics.dtype,
        "voting_seconds": execution.voting_seconds,
    }


def _moment(text: str | None) -> datetime | None:
    """A time of the manifest, in UTC and without saying so, as DuckDB's TIMESTAMP."""
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=None)
