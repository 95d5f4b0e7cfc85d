"""The file of one unit: its rows, the rules they keep, and the digest that says whose they are.

The digest is taken over the run's id, the unit's number and the file up to its footer, which is all
that holds values, and lies in the footer: file and digest appear at once. A file of an earlier
version has none; its rows are then held against the rules each time they are proven.
"""

import hashlib
import io
import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import JobError
from pipeline.runs.manifest import Manifest, canonical

_COMMITTED = b"patchcert.unit"
_TAIL = 8  # bytes: the length of the footer, and "PAR1"


class StoreError(JobError):
    """Stored votes are incomplete or break a rule that every row must keep."""


def unit_bytes(table: pa.Table, run_id: str, unit: int) -> bytes:
    """Write the rows of a unit as its file, with their digest."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        body = sink.getvalue()
        said = {"run_id": run_id, "unit": unit, "sha256": unit_digest(body, run_id, unit)}
        writer.add_key_value_metadata({_COMMITTED: canonical(said)})
    data = sink.getvalue()
    assert _body(data) == body, "Parquet wrote values after the rows"
    return data


def unit_digest(body: bytes, run_id: str, unit: int) -> str:
    """Compute the digest of a unit from the file's bytes before the footer."""
    return hashlib.sha256(canonical([run_id, unit]) + body).hexdigest()


def _body(data: bytes) -> bytes:
    return data[: -_TAIL - int.from_bytes(data[-_TAIL:-4], "little")]


def read_unit_file(
    path: str, data: bytes, manifest: Manifest, unit: int
) -> tuple[str, bool, pa.Table]:
    """Hold the file of a unit against its digest, and its rows against the rules.

    Args:
        path: Where it lies.
        data: Its bytes.
        manifest: The run.
        unit: The unit whose file it should be.

    Returns:
        The digest, whether it is the one kept at commit, and the rows: ids, labels and errors; of
        imported votes, and where no digest was kept, the votes as well.

    Raises:
        StoreError: They are not the rows that were committed, or break a rule.
    """
    remedy = f"delete {path} and {_again(manifest)}"
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            said = json.loads((file.metadata.metadata or {}).get(_COMMITTED, b"null"))
            names = ["image_id", "label", "labels", "error"]
            if said is None or manifest.imported:
                names += ["votes", "vote_sets", "prediction", "plain_prediction"]
            there = [name for name in manifest.schema.names if name in names]
            absent = sorted(set(there) - set(file.schema_arrow.names))
            if absent:
                raise StoreError(f"{path}: it has no column {absent[0]}; {remedy}")
            table = file.read(columns=there, use_threads=False).replace_schema_metadata(None)
    except (pa.ArrowException, OSError, ValueError) as error:
        told = str(error).splitlines()[0] if str(error) else "no Parquet"
        raise StoreError(f"{path}: it is damaged ({told}); {remedy}") from error
    digest = unit_digest(_body(data), manifest.run_id, unit)
    if said is None and manifest.execution.digests:
        raise StoreError(
            f"{path}: it has no digest of its rows, which each file of this run was committed "
            f"with, so another program wrote it; {remedy}"
        )
    if said is not None:
        if (said["run_id"], said["unit"]) != (manifest.run_id, unit):
            raise StoreError(
                f"{path}: it holds unit {said['unit']} of run_id={said['run_id']}; {remedy}"
            )
        if said["sha256"] != digest:
            raise StoreError(
                f"{path}: its rows are not those that were committed; they were changed since; "
                + remedy
            )
    else:
        _check_stored(table, manifest, remedy)
    _check_labels(table, manifest, remedy)
    return digest, said is not None, table


def _again(manifest: Manifest) -> str:
    if manifest.imported:
        return "import the votes again"
    return "run again with the same settings: the unit is voted on again"


def _check_stored(table: pa.Table, manifest: Manifest, remedy: str) -> None:
    """Hold rows without a digest against the rules that do not need the other columns."""
    voted = table["error"].is_null()
    cast = "votes" if manifest.defense.voting.theta is None else "vote_sets"
    for column in (cast, "prediction"):
        whole = pc.equal(table[column].is_valid(), voted)
        _require(whole, table, f"{column} or error, never both; {remedy}")
    lengths = pc.list_value_length(table[cast])
    votes = manifest.defense.votes_per_image
    _require(pc.equal(lengths, votes), table, f"{cast} of each of {votes} ablations; {remedy}")


def _check_labels(table: pa.Table, manifest: Manifest, remedy: str) -> None:
    classes = manifest.defense.network.num_classes
    rule = f"a label from 0 to {classes - 1}; {remedy}"
    labels = table["label"]
    _require(pc.and_(pc.greater_equal(labels, 0), pc.less(labels, classes)), table, rule)
    if "labels" in table.schema.names:
        several = table["labels"].combine_chunks()
        flat = several.flatten()
        wrong = pc.or_(pc.less(flat, 0), pc.greater_equal(flat, classes))
        bad = pc.list_parent_indices(several).filter(wrong)
        if len(bad):
            image_id = table["image_id"][bad[0].as_py()]
            raise StoreError(f"image_id={image_id}: breaks the rule: {rule}")


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
