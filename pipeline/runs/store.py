"""The votes on disk: one file a unit, committed atomically, and the manifest beside them.

Layout: ``<out>/votes/run_id=<id>/_manifest.json`` and ``unit-00000.parquet``, ... A unit's file
appears whole or not at all, under a name that depends on the unit alone, so that a retried or
repeated commit replaces equal bytes. Readers see only ``*.parquet``; names with a leading dot are
notes of a job at work, or left by a killed commit.
"""

import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import JobError
from pipeline import storage
from pipeline.runs.error_images import ErrorImages
from pipeline.runs.manifest import Manifest, ManifestError
from pipeline.runs.schema import Summary
from pipeline.storage.parallel import in_threads
from pipeline.storage.tables import write_parquet

_UNIT = re.compile(r"unit-(\d+)\.parquet$")
# Names of files that are being written locally; an object on S3 has none.
_HALF_WRITTEN = re.compile(r"/\.[^/]*\.(tmp|new)$")
_NOTE = re.compile(r"/\.unit-(\d+)\.[a-z]+\.begun$")
_SHOWN = 5  # images named in messages about errors


class StoreError(JobError):
    """Stored votes are incomplete or break a rule that every row must keep."""


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
            ValueError: It is no JSON.
        """
        if not storage.exists(self.summary_path):
            return None
        summary: Summary = json.loads(storage.read_bytes(self.summary_path))
        return summary

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
        return self._load_manifest() if storage.exists(self.manifest_path) else None

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

    def commit(
        self, unit: int, table: pa.Table, schema: pa.Schema, votes: int, *, plain: bool = True
    ) -> None:
        """Check the rows of one unit and write them.

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
        write_parquet(self._unit_path(unit), table)

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
        """The units of a run, if each of them has its votes.

        Raises:
            StoreError: Some have none.
        """
        units, missing = manifest.execution.units, self.missing(manifest)
        if missing:
            raise StoreError(
                f"run_id={self.run_id}: {len(missing)} of {units} units have no votes yet (first: "
                f"{missing[0]}); run `patchcert votes` again with the same settings to resume"
            )
        return range(units)

    def read_unit(self, unit: int, columns: list[str] | None = None) -> pa.Table:
        """The rows of one unit."""
        data = storage.read_bytes(self._unit_path(unit))
        return pq.read_table(io.BytesIO(data), columns=columns)

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

    def delete(self) -> None:
        """Remove this run: first the files derived from its votes, last the manifest.

        Interrupted, it leaves an unfinished run, never a result.
        """
        name = f"run_id={self.run_id}"
        for path in storage.list_files(storage.join(self.out, "summary")):
            if path.rsplit("/", 1)[-1].startswith(f"{name}."):
                storage.remove(path)
        for derived in ("certificates", "images", "detection", "locations", "witnesses", "attack"):
            for path in storage.list_files(storage.join(self.out, derived, name)):
                storage.remove(path)
        for path in storage.list_files(self.folder):
            if not path.endswith("_manifest.json"):
                storage.remove(path)
        storage.remove(self.manifest_path)


def check_rows(table: pa.Table, schema: pa.Schema, votes: int, *, plain: bool = True) -> None:
    """Check rows of the votes dataset against the rules that every reader relies on.

    Without ``plain`` no plain prediction is known.

    Raises:
        StoreError: Naming the first image that breaks a rule.
    """
    if table.schema != schema:
        raise StoreError(f"columns {table.schema.names}: these votes have {schema.names}")
    voted = table["error"].is_null()
    # Threshold voting fills ``vote_sets`` in place of ``votes``.
    cast = "vote_sets" if "vote_sets" in schema.names else "votes"
    per_vote = [cast, *(name for name in ("views", "gaps") if name in schema.names)]
    whole = ["plain_prediction"] if plain else []
    for column in (*per_vote, "counts", "prediction", *whole):
        _require(pc.equal(table[column].is_valid(), voted), table, f"{column} or error, never both")
    for column in per_vote:
        lengths = pc.list_value_length(table[column])
        _require(pc.equal(lengths, votes), table, f"{column} of each of {votes} ablations")
    if pc.count_distinct(table["image_id"]).as_py() != table.num_rows:
        raise StoreError("an image_id occurs twice in one unit; ids must be unique")


def _require(holds: pa.ChunkedArray, table: pa.Table, rule: str) -> None:
    broken = table.filter(pc.invert(pc.fill_null(holds, True)))
    if broken.num_rows:
        raise StoreError(f"image_id={broken['image_id'][0]}: breaks the rule: {rule}")
