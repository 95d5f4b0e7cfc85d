"""Stage 3, CPU tasks: one unit's votes to one file, atomically."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runs.store import VotesStore

RECEIPT = pa.schema(
    [
        *(("unit", pa.int64()), ("images", pa.int64()), ("errors", pa.int64())),
        ("seconds", pa.float64()),
    ]
)
"""Receipt of a committed unit for the driver: its number, its rows, seconds of an actor."""

_NOT_KEPT = ["unit", "seconds"]


def addressed(votes: pa.Table, decoded: pa.Table, seconds: float) -> pa.Table:
    """Votes as ``CommitUnit`` takes them: with their ``unit``, and an image's share of ``seconds``.

    A share, so that the sum is right for a unit that was voted on in parts.
    """
    shares = pa.array([seconds / max(votes.num_rows, 1)] * votes.num_rows, pa.float64())
    return votes.append_column("unit", decoded["unit"]).append_column("seconds", shares)


class CommitUnit:
    """One unit's rows to one file; a receipt goes on."""

    def __init__(
        self, store: VotesStore, unit_rows: Sequence[int], schema: pa.Schema, votes: int
    ) -> None:
        self.store, self.unit_rows, self.schema, self.votes = (
            store,
            tuple(unit_rows),
            schema,
            votes,
        )

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Votes of exactly one whole unit to its receipt.

        Raises:
            RuntimeError: The rows are not one whole unit (a programmer's mistake or Ray's:
                nothing is written).
        """
        units = set(rows["unit"].to_pylist())
        expected = self.unit_rows[min(units)] if units else 0
        if len(units) != 1 or rows.num_rows != expected:
            raise RuntimeError(
                f"unit {sorted(units)}: {rows.num_rows} rows arrived, {expected} expected; "
                "nothing was written, run again to resume"
            )
        table = rows.drop_columns(_NOT_KEPT).cast(self.schema)
        self.store.commit(min(units), table, self.schema, self.votes)
        errors = table.num_rows - table["error"].null_count
        seconds = pc.sum(rows["seconds"]).as_py()
        receipt = [[min(units)], [table.num_rows], [errors], [seconds]]
        return pa.table(receipt, schema=RECEIPT)
