"""Stage 3, CPU tasks: one unit's votes to one file, atomically."""

from collections.abc import Sequence

import pyarrow as pa

from pipeline.store import VotesStore

RECEIPT = pa.schema([("unit", pa.int64()), ("images", pa.int64()), ("errors", pa.int64())])
"""What the driver learns of a committed unit."""


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
        table = rows.drop_columns(["unit"]).cast(self.schema)
        self.store.commit(min(units), table, self.schema, self.votes)
        receipt = [[min(units)], [table.num_rows], [table.num_rows - table["error"].null_count]]
        return pa.table(receipt, schema=RECEIPT)
