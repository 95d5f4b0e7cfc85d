"""Proof of the votes of a run, and the digest that binds to them what is made from them.

Every unit's file is held against its digest, and the ids and labels of all of them against the
digest in the run's identity (of imported votes: the votes too). What was found is kept beside the
votes and believed while each file is, by its store's account, the one that was read.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.runs.manifest import Manifest, add_rows
from pipeline.runs.unit_files import StoreError, read_unit_file
from pipeline.sources.stored_files import StoredFile
from pipeline.storage.parallel import in_threads

BOND = b"patchcert.votes"
"""Metadata of a file that is made from votes: their digest."""

# To be raised whenever more is held against the rows than before.
_REVISION = 1
# A file may change twice within one tick of its clock, which its times would not show.
_TICK_SECONDS = 2.0
_UNITS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Facts about the votes of a run, none of which breaks a rule.

    Attributes:
        sha256: Digest of the votes: of the digests of all units, in order.
        units: Number of units.
        committed: Those of them whose digest was kept when they were committed.
        listed: Whether ids and labels are proven to be those of the listing; an earlier version
            kept no digest of it.
    """

    sha256: str
    units: int
    committed: int
    listed: bool

    @property
    def bond(self) -> dict[bytes, bytes]:
        """Metadata of a file that is made from these votes."""
        return {BOND: self.sha256.encode()}


def prove(
    manifest: Manifest,
    folder: str,
    files: Mapping[int, StoredFile],
    *,
    remembered: bool = True,
) -> Proof:
    """Hold the units that are there against their digests, and all of a run against its identity.

    Args:
        manifest: The run.
        folder: Folder of its votes.
        files: The file of each unit.
        remembered: Believe what was found of the same files before.

    Raises:
        StoreError: A file holds other rows than were committed, or the rows are not the run's.
    """
    units, started = sorted(files), time.time()
    whole = units == list(range(manifest.execution.units))
    memory = storage.join(folder, ".proof.json")
    # The manifest's own facts too: what is proven is that they fit the files.
    facts = manifest.execution
    seen = [_REVISION, facts.images, facts.digests, [asdict(files[unit]) for unit in units]]
    if remembered and (known := _recall(memory, seen)) is not None:
        return known
    every, listed, ids = hashlib.sha256(), hashlib.sha256(), list[pa.ChunkedArray]()
    committed = 0

    def read(unit: int) -> tuple[str, bool, pa.Table]:
        path = files[unit].path
        return read_unit_file(path, storage.read_bytes(path), manifest, unit)

    for start in range(0, len(units), _UNITS_AT_ONCE):
        for digest, kept, table in in_threads(read, units[start : start + _UNITS_AT_ONCE]):
            every.update(digest.encode())
            committed += kept
            ids.append(table["image_id"])
            (_add_votes if manifest.imported else add_rows)(listed, table)
    proof = Proof(
        sha256=every.hexdigest(),
        units=len(units),
        committed=committed,
        listed=whole and _is_listed(manifest, listed.hexdigest(), folder),
    )
    if not proof.listed:
        _check_ids(manifest, ids, folder)
    ages = [file.changed_ns for file in files.values() if file.changed_ns is not None]
    if whole and max(ages, default=0) / 1e9 < started - _TICK_SECONDS:
        with suppress(*storage.failures()):  # it costs time only
            storage.write_atomically(memory, json.dumps([seen, asdict(proof)]).encode())
    return proof


def _recall(memory: str, seen: object) -> Proof | None:
    with suppress(ValueError, TypeError, *storage.failures()):
        found, proof = json.loads(storage.read_bytes(memory))
        return Proof(**proof) if found == seen else None
    return None


def _is_listed(manifest: Manifest, digest: str, folder: str) -> bool:
    """Hold ids and labels against the identity; False where it does not say what was listed.

    Raises:
        StoreError: They differ.
    """
    wanted = manifest.data.fingerprint if manifest.imported else manifest.data.rows_sha256
    if not wanted:
        return False
    if digest != wanted:
        what, field, remedy = (
            ("images, labels and votes", "fingerprint", f"delete {folder} and import them again")
            if manifest.imported
            else ("ids and labels", "rows_sha256", "run again with --overwrite")
        )
        raise StoreError(
            f"{folder}: the {what} of its {manifest.execution.units} units are not those that "
            f"run_id={manifest.run_id} is of (identity.data.{field}): execution.images or units "
            "in its manifest was changed, or a file of votes replaced; restore them, or " + remedy
        )
    return True


def _check_ids(manifest: Manifest, ids: Iterable[pa.ChunkedArray], folder: str) -> None:
    chunks = [chunk for column in ids for chunk in column.chunks]
    if not chunks:
        return
    counted = pa.chunked_array(chunks).value_counts()
    doubled = counted.filter(pa.array(counted.field("counts").to_numpy() > 1))
    if len(doubled):
        raise StoreError(
            f"{folder}: {len(doubled)} ids occur twice (first: {doubled[0]['values']}), so a file "
            f"of run_id={manifest.run_id} was copied over another; restore it, or delete the "
            "folder and vote again"
        )


def _add_votes(digest: "hashlib._Hash", table: pa.Table) -> None:
    """Add the rows of imported votes to the digest that their run is named by."""
    names = ["image_id", "labels" if "labels" in table.schema.names else "label"]
    facts = zip(
        *(table[name].to_pylist() for name in (*names, "plain_prediction", "error")), strict=True
    )
    lists = table["votes"].combine_chunks()
    # Views that were not asked have no vote.
    flat = lists.values.cast(pa.int32()).fill_null(-1).to_numpy().astype("<i4")
    offsets = lists.offsets.to_numpy()
    add_images(digest, facts, (flat[start:end] for start, end in pairwise(offsets)))


def add_images(
    digest: "hashlib._Hash",
    facts: Iterable[tuple[object, ...]],
    votes: Iterable[NDArray[np.int32]],
) -> None:
    """Add images of imported votes to the digest that their run is named by.

    Args:
        digest: The digest.
        facts: Id, right class or classes, plain prediction and error of each image.
        votes: Votes of each image, little-endian; left out where it has an error.
    """
    for fact, votes_v in zip(facts, votes, strict=True):
        digest.update(json.dumps(fact).encode())
        if fact[-1] is None:
            digest.update(votes_v.tobytes())
