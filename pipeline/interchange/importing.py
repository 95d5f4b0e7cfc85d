"""Votes that were cast elsewhere, made an ordinary run."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from pipeline import storage
from pipeline.faulty import faulty_images
from pipeline.interchange.config import ImportConfig
from pipeline.interchange.contents import Contents, look_through
from pipeline.interchange.stored_rows import units_of
from pipeline.lease import held
from pipeline.manifest import Manifest
from pipeline.revision import program_version
from pipeline.store import VotesStore

_UNKNOWN = "unknown"
_UNIT_IMAGES = 256


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import did.

    Attributes:
        run_id: The run.
        folder: Where its votes lie.
        images: Images of the run.
        errors: Those with an error in place of votes.
        computed: False where the run was there already.
    """

    run_id: str
    folder: str
    images: int
    errors: int
    computed: bool


def import_votes(patterns: Sequence[str], config: ImportConfig, out: str) -> Imported:
    """Check files of votes and store them as a run; the same votes are the same run.

    The files are read twice, the second time to write, so that memory holds one at a time and
    nothing is written of files with a mistake. Another import of the same run is waited for.

    Args:
        patterns: Files, .npz or .parquet, local or s3://; globs and braces allowed.
        config: What the votes are of, where the files do not say it.
        out: Folder of all results.

    Raises:
        ConfigError, PathError, SourceError: The files or the flags are wrong.
        ManifestError, StoreError: The run that is there contradicts itself.
    """
    paths = [path for pattern in patterns for path in storage.expand(pattern)]
    contents = look_through(paths, config)
    manifest = _manifest(contents)
    store = VotesStore(out, manifest.run_id)
    done, computed = store.finished(), False
    if done is None:
        with held(store.lease_path, f"run_id={store.run_id}", wait=True):
            done = store.finished() or _write(store, manifest, contents)
            computed = True
    return Imported(
        run_id=store.run_id,
        folder=store.folder,
        images=int(done.execution["images"]),
        errors=int(done.execution["faulty"]["count"]),
        computed=computed,
    )


def _manifest(contents: Contents) -> Manifest:
    """The facts of the run; what nobody vouches for is "unknown"."""
    spec, paths = contents.spec, [str(file["path"]) for file in contents.files]
    identity = {
        "data": {
            "kind": "imported",
            "fingerprint": contents.fingerprint,
            "limit": None,
            "several_labels": contents.several_labels,
        },
        "model": {
            "name": spec.model,
            "num_classes": spec.num_classes,
            "weights_sha256": _UNKNOWN,
            "classes": None if spec.classes is None else list(spec.classes),
        },
        "ablation": asdict(spec.ablation),
        "tokens": _UNKNOWN,
        "voting": {"theta": None, "gaps": False},
        "randomized": {"draws": None, "seed": 0},
        "numerics": {"device": _UNKNOWN, "dtype": _UNKNOWN},
        "imported": {"plain": contents.plain},
    }
    execution = {
        "data": paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more",
        "weights": _UNKNOWN,
        "files": list(contents.files),
        "imported_by": f"patchcert {program_version()}",
        "images": contents.images,
        "unit_images": _UNIT_IMAGES,
        "units": -(-contents.images // _UNIT_IMAGES),
        "started": _now(),
    }
    return Manifest(identity=identity, execution=execution)


def _write(store: VotesStore, wanted: Manifest, contents: Contents) -> Manifest:
    """Commit every unit that is missing, and say in the manifest that the run is finished."""
    manifest = store.create_manifest(wanted)
    store.clean_up()
    missing = set(store.missing(manifest))
    for number, unit in enumerate(units_of(contents.files, manifest)):
        if number in missing:
            votes = manifest.votes_per_image
            store.commit(number, unit, manifest.schema, votes, plain=contents.plain)
    faulty = faulty_images(store, manifest).to_dict()
    done = replace(manifest, execution={**manifest.execution, "finished": _now(), "faulty": faulty})
    store.write_manifest(done)
    return done


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
