"""Import files of votes that were cast elsewhere as an ordinary run."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import ConfigError
from pipeline.interchange.config import ImportConfig
from pipeline.interchange.spec import Spec, spec_from
from pipeline.interchange.votes_file import VotesFile, check_votes_file, read_votes_file
from pipeline.runs.defense import Defense, Network, Voting
from pipeline.runs.lease import hold_lease
from pipeline.runs.manifest import Execution, Manifest, utc_now
from pipeline.runs.rows import ranked_counts
from pipeline.runs.schema import votes_schema
from pipeline.runs.store import VotesStore
from pipeline.runs.versions import program_version

_UNKNOWN: Any = "unknown"
_UNIT_IMAGES = 256
# Images converted to rows at once.
_CHUNK_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Result of an import.

    Attributes:
        run_id: Id of the run.
        folder: Folder of its votes.
        images: Images of the run.
        errors: Images with an error in place of votes.
        computed: False where the run existed already.
    """

    run_id: str
    folder: str
    images: int
    errors: int
    computed: bool


def import_votes(patterns: Sequence[str], config: ImportConfig, out: str) -> Imported:
    """Check files of votes and store them as a run; the same votes give the same run.

    The files are read twice, the second time to write, so that memory holds one at a time and
    nothing is written if a file has a mistake. Waits for another import of the same run.

    Args:
        patterns: Files, .npz or .parquet, local or s3://; globs and braces allowed.
        config: Description of the votes, where the files have none.
        out: Folder of all results.

    Raises:
        ConfigError, PathError, SourceError: The files or the flags are wrong.
        ManifestError, StoreError: The stored run contradicts itself.
    """
    paths = [path for pattern in patterns for path in storage.expand(pattern)]
    contents = _check_files(paths, config)
    manifest = _manifest(contents)
    store = VotesStore(out, manifest.run_id)
    done, computed = store.finished(), False
    if done is None:
        with hold_lease(store.lease_path, f"run_id={store.run_id}", wait=True):
            done = store.finished() or _write(store, manifest, contents)
            computed = True
    return Imported(
        run_id=store.run_id,
        folder=store.folder,
        images=done.execution.images,
        errors=done.execution.error_images.count if done.execution.error_images else 0,
        computed=computed,
    )


@dataclass(frozen=True, kw_only=True)
class _Contents:
    """Facts about all files of a run; their votes are not kept.

    Attributes:
        spec: Meaning of the votes.
        files: Path, sha256 and images of each file.
        fingerprint: Digest of the images and their votes, whatever the files' format.
        several_labels: True if an image may have several right classes.
        plain: True if the network's class of the whole image is known.
        early_exit: True if some views were not asked.
    """

    spec: Spec
    files: Sequence[Mapping[str, Any]]
    fingerprint: str
    several_labels: bool
    plain: bool
    early_exit: bool


def _check_files(paths: Sequence[str], config: ImportConfig) -> _Contents:
    """Read and check every file, one at a time.

    Raises:
        ConfigError, SourceError: A file or a flag is wrong, or the files are not of one run.
    """
    digest = hashlib.sha256()
    path_of_id: dict[str, str] = {}
    files: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    partial = False
    for path in paths:
        file = read_votes_file(path)
        spec = spec_from(config, file.columns.spec, path)
        check_votes_file(file, spec)
        _check_ids(file, path_of_id)
        common = {
            "votes of": spec,
            "several labels an image": file.several_labels,
            "plain predictions": file.columns.plain_n is not None,
        }
        first = first or common
        for what, value in common.items():
            if value != first[what]:
                raise ConfigError(
                    f"{path}: {what}: {value}, in {paths[0]}: {first[what]}; files of one run "
                    "agree, others are imported apart"
                )
        partial |= spec.early_exit or bool(file.unasked_nv.any())
        file.add_to(digest)
        files.append({"path": path, "sha256": file.sha256, "images": len(file)})
    if not path_of_id:
        raise ConfigError(f"{', '.join(paths) or 'no file'}: there is no image to import")
    return _Contents(
        spec=first["votes of"],
        files=files,
        fingerprint=digest.hexdigest(),
        several_labels=first["several labels an image"],
        plain=first["plain predictions"],
        early_exit=partial,
    )


def _check_ids(file: VotesFile, path_of_id: dict[str, str]) -> None:
    for image_id in file.ids:
        if not image_id:
            raise ConfigError(f"{file.path}: an image id is empty; every image needs its own")
        if image_id in path_of_id:
            raise ConfigError(
                f"{file.path}, image {image_id}: its id occurs twice, first in "
                f"{path_of_id[image_id]}; give every image an id of its own (image_ids)"
            )
        path_of_id[image_id] = file.path


def _manifest(contents: _Contents) -> Manifest:
    """Build the manifest of the run; facts that no file can prove are "unknown"."""
    spec, paths = contents.spec, [str(file["path"]) for file in contents.files]
    images = sum(int(file["images"]) for file in contents.files)
    network = Network(
        name=spec.model,
        num_classes=spec.num_classes,
        weights_sha256=_UNKNOWN,
        classes=spec.classes,
    )
    defense = Defense(
        preprocess=None,
        network=network,
        views=spec.views,
        tokens=_UNKNOWN,
        voting=Voting(early_exit=contents.early_exit),
    )
    identity = {
        "data": {
            "kind": "imported",
            "fingerprint": contents.fingerprint,
            "limit": None,
            "several_labels": contents.several_labels,
        },
        **defense.to_identity(),
        "numerics": {"device": _UNKNOWN, "dtype": _UNKNOWN},
        "imported": {"plain": contents.plain},
    }
    execution = Execution(
        data=paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more",
        weights=_UNKNOWN,
        files=list(contents.files),
        imported_by=f"patchcert {program_version()}",
        images=images,
        unit_images=_UNIT_IMAGES,
        units=-(-images // _UNIT_IMAGES),
        started=utc_now(),
        digests=True,
    )
    return Manifest(identity=identity, execution=execution)


def _write(store: VotesStore, wanted: Manifest, contents: _Contents) -> Manifest:
    """Commit every missing unit, and mark the run finished in its manifest."""
    manifest = store.create_manifest(wanted)
    store.clean_up()
    missing = set(store.missing(manifest))
    for number, unit in enumerate(_units(contents.files, manifest)):
        if number in missing:
            votes = manifest.defense.votes_per_image
            store.commit(number, unit, manifest.schema, votes, plain=contents.plain)
    execution = replace(
        manifest.execution, finished=utc_now(), error_images=store.error_images(manifest)
    )
    done = replace(manifest, execution=execution)
    store.write_manifest(done)
    return done


def _units(files: Sequence[Mapping[str, Any]], manifest: Manifest) -> Iterator[pa.Table]:
    """Yield the rows of every unit of a run, in order.

    Raises:
        ConfigError: A file has changed since it was checked.
    """
    return _cut(_rows(files, manifest), manifest.execution.unit_images)


def _rows(files: Sequence[Mapping[str, Any]], manifest: Manifest) -> Iterator[pa.Table]:
    for checked in files:
        file = read_votes_file(str(checked["path"]))
        if file.sha256 != checked["sha256"]:
            raise ConfigError(f"{file.path}: it changed while it was read; import it again")
        facts, votes_nv, voted_n = _facts(file), file.columns.votes_nv, file.voted_n
        for start in range(0, len(file), _CHUNK_IMAGES):
            chunk = slice(start, start + _CHUNK_IMAGES)
            some = facts.slice(start, _CHUNK_IMAGES)
            yield _votes_table(some, votes_nv[chunk], voted_n[chunk], manifest)


def _facts(file: VotesFile) -> pa.Table:
    """Return what a file holds of each image beside its votes."""
    types = votes_schema(labels=True)
    columns = {
        "image_id": file.ids,
        "labels" if file.several_labels else "label": file.labels(),
        "plain_prediction": file.plain(),
        "error": file.errors,
    }
    return pa.table({name: pa.array(of, types.field(name).type) for name, of in columns.items()})


def _votes_table(
    facts: pa.Table, votes_nv: NDArray[Any], voted_n: NDArray[np.bool_], manifest: Manifest
) -> pa.Table:
    """Build rows of the votes dataset."""
    counts = [
        ranked_counts(votes) if voted else None
        for votes, voted in zip(votes_nv, voted_n, strict=True)
    ]
    ends = np.cumsum(np.where(voted_n, manifest.defense.votes_per_image, 0))
    cast = votes_nv[voted_n].ravel()
    columns = {
        "votes": pa.ListArray.from_arrays(
            pa.array(np.append(0, ends), pa.int32()),
            pa.array(cast.astype(np.uint16), mask=cast < 0),
            mask=pa.array(~voted_n),
        ),
        "counts": counts,
        "prediction": [ranked and ranked[0]["class"] for ranked in counts],
    }
    arrays = [
        facts[field.name]
        if field.name in facts.schema.names
        else pa.array(columns.get(field.name, [None] * len(counts)), field.type)
        for field in manifest.schema
    ]
    return pa.table(arrays, schema=manifest.schema)


def _cut(tables: Iterable[pa.Table], unit_images: int) -> Iterator[pa.Table]:
    """Cut rows into units; the last may hold fewer images."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        rows = pa.concat_tables(waiting)
        whole = rows.num_rows - rows.num_rows % unit_images
        for start in range(0, whole, unit_images):
            yield rows.slice(start, unit_images).combine_chunks()
        waiting = [rows.slice(whole)]
    if waiting and waiting[0].num_rows:
        yield waiting[0].combine_chunks()
