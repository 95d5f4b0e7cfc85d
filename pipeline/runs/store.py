"""The votes on disk: one file a unit, committed atomically, and the manifest beside them.

Layout: ``<out>/votes/run_id=<id>/_manifest.json`` and ``unit-00000.parquet``, ... A unit's file
appears whole or not at all, under a name that depends on the unit alone, so that a retried or
repeated commit replaces equal bytes. Readers see only ``*.parquet``; names with a leading dot are
notes of a job at work, or left by a killed commit.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.runs.error_images import ErrorImages
from pipeline.runs.manifest import Manifest, ManifestError, canonical
from pipeline.runs.proof import Proof, prove
from pipeline.runs.schema import SIZES, Summary
from pipeline.runs.unit_files import StoreError, check_rows, unit_bytes
from pipeline.sources.stored_files import StoredFile, list_directory
from pipeline.storage.parallel import in_threads

__all__ = ["DERIVED", "StoreError", "VotesStore", "check_rows", "run_ids"]

_UNIT = re.compile(r"unit-(\d+)\.parquet$")
# Names of files that are being written locally; an object on S3 has none.
_HALF_WRITTEN = re.compile(r"/\.[^/]*\.(tmp|new)$")
_NOTE = re.compile(r"/\.unit-(\d+)\.[a-z]+\.begun$")
_SHOWN = 5  # images named in messages about errors

DERIVED = ("certificates", "images", "detection", "locations", "witnesses", "audit", "attack")
"""Folders under ``<out>`` of what is made from votes."""


def run_ids(out: str) -> list[str]:
    """Every run with votes under ``out``, ascending."""
    names = storage.list_folders(storage.join(out, "votes"))
    return [name.removeprefix("run_id=") for name in names if name.startswith("run_id=")]


@dataclass(frozen=True)
class VotesStore:
    """The votes of one run.

    Attributes:
        out: Folder of all results, local or s3://.
        run_id: The run.
    """

    out: str
    run_id: str

    def anywhere(self) -> "VotesStore":
        """The same store for Ray's workers, which may run in another directory."""
        return VotesStore(storage.full_path(self.out), self.run_id)

    @property
    def folder(self) -> str:
        """Folder of this run's votes."""
        return storage.join(self.out, "votes", f"run_id={self.run_id}")

    @property
    def manifest_path(self) -> str:
        """Path of this run's manifest."""
        return storage.join(self.folder, "_manifest.json")

    @property
    def summary_path(self) -> str:
        """Path of this run's summary, once it is certified."""
        return storage.join(self.out, "summary", f"run_id={self.run_id}.json")

    def read_summary(self) -> Summary | None:
        """The summary; None where the run has not been certified.

        Raises:
            ManifestError: The manifest contradicts the run's id.
            StoreError: It was edited, or is of other votes than lie beside it now, or these are
                incomplete or not the run's own.
        """
        manifest = self.read_manifest()
        if manifest is None:
            return None
        try:
            written = storage.read_bytes(self.summary_path)
        except FileNotFoundError:
            return None
        self.units(manifest)
        again = f"run `patchcert certify --run-id {self.run_id}` again"
        try:
            summary: Summary = json.loads(written)
            # Earlier versions bound their summaries to nothing.
            sealed, votes = summary.get("sha256"), summary.get("votes_sha256")
            summary["certified_accuracy"]
        except (ValueError, AttributeError, KeyError) as error:
            raise StoreError(f"{self.summary_path}: not a summary ({error}); {again}") from error
        if sealed is not None and sealed != _seal(summary):
            raise StoreError(f"{self.summary_path}: it was changed since it was written; {again}")
        if sealed is not None and votes != self.proof(manifest).sha256:
            raise StoreError(
                f"{self.summary_path}: it is of other votes than those that lie in {self.folder} "
                f"now; {again}"
            )
        return summary

    def write_summary(self, summary: Summary, proof: Proof) -> Summary:
        """Write the summary, bound to the votes it is made from; return it as it is in the file."""
        bound: Summary = {**summary, "votes_sha256": proof.sha256}
        bound["sha256"] = _seal(bound)
        text = json.dumps(bound, indent=2, sort_keys=True) + "\n"
        storage.write_atomically(self.summary_path, text.encode())
        return bound

    @property
    def lease_path(self) -> str:
        """Path of the lease of the job that is at work on this run."""
        return storage.join(self.out, "leases", f"run_id={self.run_id}.json")

    def note_path(self, unit: int, stage: str) -> str:
        """Path of the note that a stage has begun a unit."""
        return storage.join(self.folder, f".unit-{unit:05d}.{stage}.begun")

    def read_manifest(self) -> Manifest | None:
        """Read the manifest; None where there is no such run.

        Raises:
            ManifestError: It contradicts its id.
        """
        try:
            return self._load_manifest()
        except FileNotFoundError:
            return None

    def _load_manifest(self) -> Manifest:
        data = storage.read_bytes(self.manifest_path)
        return Manifest.from_json(data, run_id=self.run_id, where=self.manifest_path)

    def manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            ManifestError: There is no such run, or its manifest contradicts its id.
        """
        manifest = self.read_manifest()
        if manifest is None:
            raise ManifestError(
                f"run_id={self.run_id}: no votes under {self.out}; run `patchcert votes` first"
            )
        return manifest

    def write_manifest(self, manifest: Manifest) -> None:
        """Write or replace the manifest, atomically."""
        storage.write_atomically(self.manifest_path, manifest.to_json())

    def create_manifest(self, manifest: Manifest) -> Manifest:
        """Write the manifest unless there is one by now; the one that is there.

        Raises:
            ManifestError: The one that is there contradicts its id.
        """
        if storage.create(self.manifest_path, manifest.to_json()):
            return manifest
        return self._load_manifest()

    def committed(self) -> set[int]:
        """Units whose votes are on disk."""
        matches = (_UNIT.search(path) for path in storage.list_files(self.folder))
        return {int(match[1]) for match in matches if match}

    def missing(self, manifest: Manifest) -> list[int]:
        """Units of a run without votes, ascending."""
        return sorted(set(range(manifest.execution.units)) - self.committed())

    def images_done(self) -> int:
        """Count the images whose votes are on disk.

        Raises:
            ManifestError: The manifest contradicts the run's id.
        """
        manifest = self.read_manifest()
        if manifest is None:
            return 0
        facts = manifest.execution
        last = facts.images - (facts.units - 1) * facts.unit_images  # the last unit may be shorter
        absent = sum(
            last if unit == facts.units - 1 else facts.unit_images
            for unit in self.missing(manifest)
        )
        return facts.images - absent

    def finished(self) -> Manifest | None:
        """Read the manifest of a finished run whose votes are all there; None of another.

        Raises:
            ManifestError: It contradicts its id.
        """
        manifest = self.read_manifest()
        if manifest is None or manifest.execution.error_images is None or self.missing(manifest):
            return None
        return manifest

    def error_images(self, manifest: Manifest) -> ErrorImages:
        """Find the images of a finished run that have an error in place of votes.

        Raises:
            StoreError: Units are missing.
        """

        def errors_of(unit: int) -> list[tuple[str, str]]:
            table = self.read_unit(unit, ["image_id", "error"])
            rows = table.filter(table["error"].is_valid()).to_pydict()
            return list(zip(rows["image_id"], rows["error"], strict=True))

        found = [pair for pairs in in_threads(errors_of, self.units(manifest)) for pair in pairs]
        return ErrorImages(count=len(found), first=dict(found[:_SHOWN]))

    def is_complete(self, manifest: Manifest) -> bool:
        """True where every unit has its votes."""
        return not self.missing(manifest)

    def clean_up(self) -> None:
        """Remove half-written files of killed commits, and notes on units that are committed.

        Only while no commit is under way.
        """
        committed = self.committed()
        for path in storage.list_files(self.folder):
            note = _NOTE.search(path)
            if _HALF_WRITTEN.search(path) or (note and int(note[1]) in committed):
                storage.remove(path)

    def notes(self) -> dict[str, bytes]:
        """Read the notes on units that were begun, by path: how many processes died over each."""
        found = {}
        for path in filter(_NOTE.search, storage.list_files(self.folder)):
            with suppress(FileNotFoundError):  # the unit is done by now
                found[path] = storage.read_bytes(path)
        return found

    def take_back(self, notes: Mapping[str, bytes]) -> None:
        """Make the notes again what they were: what was begun since ended over no image."""
        for path, now in self.notes().items():
            if path not in notes:
                storage.remove(path)
            elif now != notes[path]:
                storage.write_atomically(path, notes[path])

    def commit(
        self, unit: int, table: pa.Table, schema: pa.Schema, votes: int, *, plain: bool = True
    ) -> None:
        """Check the rows of one unit and write them.

        A digest of them is in the same file, so that neither can be there without the other.

        Args:
            unit: Its number.
            table: Its rows.
            schema: Columns of the run.
            votes: Votes of an image.
            plain: Plain predictions are known; imported votes may come without.

        Raises:
            StoreError: A row breaks a rule; nothing is written.
        """
        check_rows(table, schema, votes, plain=plain)
        storage.write_atomically(self._unit_path(unit), unit_bytes(table, self.run_id, unit))

    def read(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """All rows, a unit at a time, in the listing's order.

        Raises:
            ManifestError: There is no such run.
            StoreError: Units or rows are missing or doubled.
        """
        manifest, rows = self.manifest(), 0
        for unit in self.units(manifest):
            table = self.read_unit(unit, columns)
            rows += table.num_rows
            yield table
        self.check_count(manifest, rows)

    def units(self, manifest: Manifest) -> range:
        """The units of a run, if each of them has its votes, and they are those of the run.

        Raises:
            StoreError: Some have none, or others (``proof``).
        """
        units, missing = manifest.execution.units, self.missing(manifest)
        if missing:
            raise StoreError(
                f"run_id={self.run_id}: {len(missing)} of {units} units have no votes yet (first: "
                f"{missing[0]}); run `patchcert votes` again with the same settings to resume"
            )
        self.proof(manifest)
        return range(units)

    def proof(self, manifest: Manifest, *, remembered: bool = True) -> Proof:
        """Prove of the units that are there that their rows are the run's own.

        Args:
            manifest: The run.
            remembered: Believe what was found of the same files before.

        Raises:
            StoreError: They are not; the message names the file and the remedy.
        """
        files = self.unit_files()
        beyond = sorted(set(files) - set(range(manifest.execution.units)))
        if beyond:
            raise StoreError(
                f"{files[beyond[0]].path}: run_id={self.run_id} has {manifest.execution.units} "
                "units by its manifest, and this is none of them; restore execution.images and "
                "units in the manifest, or run again with --overwrite"
            )
        return prove(manifest, self.folder, files, remembered=remembered)

    def unit_files(self) -> dict[int, StoredFile]:
        """The files of the units whose votes are on disk, as their store describes them."""
        with suppress(FileNotFoundError):
            found = ((_UNIT.search(file.path), file) for file in list_directory(self.folder))
            return {int(match[1]): file for match, file in found if match}
        return {}

    def read_unit(self, unit: int, columns: list[str] | None = None) -> pa.Table:
        """The rows of one unit; sizes of pictures are null where an earlier version kept none."""
        with pq.ParquetFile(io.BytesIO(storage.read_bytes(self._unit_path(unit)))) as file:
            absent = [
                field
                for field in SIZES
                if field.name in (columns or ()) and field.name not in file.schema_arrow.names
            ]
            there = columns and [name for name in columns if name not in {f.name for f in absent}]
            table = file.read(columns=there).replace_schema_metadata(None)
        for field in absent:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        return table if columns is None else table.select(columns)

    def _unit_path(self, unit: int) -> str:
        return storage.join(self.folder, f"unit-{unit:05d}.parquet")

    def read_units(self, units: Iterable[int], columns: list[str] | None = None) -> pa.Table:
        """The rows of some units."""
        return pa.concat_tables(self.read_unit(unit, columns) for unit in units)

    def check_count(self, manifest: Manifest, rows: int) -> None:
        """Raise StoreError unless all units together have a row an image."""
        images = manifest.execution.images
        if rows != images:
            raise StoreError(
                f"run_id={self.run_id}: {rows} rows for {images} listed images; delete "
                f"{self.folder} and vote again"
            )

    def remove_pictures(self) -> None:
        """Remove what is drawn of the votes."""
        for path in storage.list_files(storage.join(self.out, "summary")):
            name = path.rsplit("/", 1)[-1]
            if name.startswith(f"run_id={self.run_id}.") and name.endswith(".png"):
                storage.remove(path)

    def delete(self) -> None:
        """Remove this run: first the files derived from its votes, last the manifest.

        Interrupted, it leaves an unfinished run, never a result.
        """
        name = f"run_id={self.run_id}"
        for path in storage.list_files(storage.join(self.out, "summary")):
            if path.rsplit("/", 1)[-1].startswith(f"{name}."):
                storage.remove(path)
        for derived in DERIVED:
            for path in storage.list_files(storage.join(self.out, derived, name)):
                storage.remove(path)
        for path in storage.list_files(self.folder):
            if not path.endswith("_manifest.json"):
                storage.remove(path)
        storage.remove(self.manifest_path)


def _seal(summary: Summary) -> str:
    """Compute the digest of a summary's other fields."""
    fields = {name: value for name, value in summary.items() if name != "sha256"}
    return hashlib.sha256(canonical(fields)).hexdigest()
