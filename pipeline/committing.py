"""Stage 3, CPU tasks: one unit's votes to one file, atomically."""

from collections.abc import Sequence

import pyarrow as pa

from pipeline.schema import VOTES
from pipeline.store import VotesStore

RECEIPT = pa.schema([("unit", pa.int64()), ("images", pa.int64()), ("errors", pa.int64())])
"""What the driver learns of a committed unit."""


class CommitUnit:
    """One unit's rows to one file; a receipt goes on."""

    def __init__(self, store: VotesStore, unit_rows: Sequence[int], views: int) -> None:
        self.store, self.unit_rows, self.views = store, tuple(unit_rows), views

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
        table = rows.drop_columns(["unit"]).cast(VOTES)
        self.store.commit(min(units), table, self.views)
        receipt = [[min(units)], [table.num_rows], [table.num_rows - table["error"].null_count]]
        return pa.table(receipt, schema=RECEIPT)
