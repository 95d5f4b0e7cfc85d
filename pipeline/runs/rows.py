"""Votes of a batch as rows of the votes dataset, and back."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.views.family import IntArray
from pipeline.certificates.votes import EMPTY, pad_sets
from pipeline.runs.defense import Defense
from pipeline.runs.store import StoreError

if TYPE_CHECKING:
    # It imports torch, which reading votes does not need.
    from models.classifiers.smoothed import BatchVotes


def votes_table(
    rows: pa.Table,
    readable: IntArray,
    ballot: "BatchVotes",
    schema: pa.Schema,
    *,
    views_bv: IntArray | None = None,
    lowest_class: int = 0,
) -> pa.Table:
    """Rows of the votes dataset from a ballot.

    Args:
        rows: What is known of all images beside their votes, R rows: ``image_id``, ``label``,
            ``labels``, ``error``, ``height`` and ``width``.
        readable: Which of the rows were voted on, ascending; int (B,).
        ballot: Their votes.
        schema: Columns of the run.
        views_bv: Which ablations voted, where each image has its own; int (B, V).
        lowest_class: The lowest class that can be voted for: it wins where none reached the
            threshold.
    """
    columns: dict[str, Any] = {
        name: [None] * rows.num_rows for name in schema.names if name not in rows.schema.names
    }
    for index, row in enumerate(readable):
        cast = ballot.votes_bv[index] if ballot.vote_sets is None else ballot.vote_sets[index]
        if ballot.vote_sets is None:
            columns["votes"][row] = pa.array(cast, pa.uint16(), mask=cast < 0)
        else:
            columns["vote_sets"][row] = [votes[votes >= 0].tolist() for votes in cast]
        columns["counts"][row] = ranked = ranked_counts(cast)
        columns["prediction"][row] = ranked[0]["class"] if ranked else lowest_class
        columns["plain_prediction"][row] = int(ballot.plain_b[index])
        if ballot.gaps_bv is not None:
            columns["gaps"][row] = pa.array(ballot.gaps_bv[index], mask=ballot.votes_bv[index] < 0)
        if views_bv is not None:
            columns["views"][row] = views_bv[index].astype(np.uint32)
    arrays = [
        rows[field.name] if field.name not in columns else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def ranked_counts(votes: IntArray) -> list[dict[str, int]]:
    """Classes with their votes, most votes first, lowest class first on ties; -1 is no vote."""
    classes, counts = np.unique(votes[votes >= 0], return_counts=True)
    order = np.lexsort((classes, -counts))
    return [{"class": int(classes[i]), "votes": int(counts[i])} for i in order]


def votes_array(table: pa.Table, defense: Defense) -> IntArray:
    """Votes of the rows without an error: (N, V), or sets (N, V, T) with -1 in empty slots.

    Of a run with early exit, -1 is a view that was not asked.

    Args:
        table: Rows with ``votes``, or with ``vote_sets`` under threshold voting.
        defense: The defense that voted.

    Raises:
        StoreError: Not all votes are there.
    """
    vote_sets = defense.voting.vote_sets
    cells = table["vote_sets" if vote_sets else "votes"].drop_null().combine_chunks()
    if not len(cells):
        return np.empty((0, 1, 1) if vote_sets else (0, 1), dtype=np.int64)
    if not vote_sets:
        labels = cells.flatten()
        if labels.null_count:
            if not defense.voting.early_exit:
                raise StoreError("votes of some views are missing; delete the run and vote again")
            labels = labels.cast(pa.int32()).fill_null(EMPTY)
        flat: IntArray = labels.to_numpy().astype(np.int64)
        return flat.reshape(len(cells), -1)
    sets = cells.flatten()
    sizes = sets.value_lengths().to_numpy().reshape(len(cells), -1).astype(np.int64)
    return pad_sets(sets.flatten().to_numpy(), sizes).astype(np.int64)


def gaps_array(table: pa.Table) -> NDArray[np.floating]:
    """Top-two gaps of the rows without an error, NaN where a view was not asked; (N, V)."""
    cells = table["gaps"].drop_null().combine_chunks()
    flat = cells.flatten().cast(pa.float32())
    gaps: NDArray[np.floating] = flat.to_numpy(zero_copy_only=False)
    return gaps.reshape(len(cells), -1)


def plain_array(table: pa.Table) -> IntArray:
    """Predictions of the whole images, -1 where there is none; (N,)."""
    plain_n: IntArray = table["plain_prediction"].fill_null(-1).to_numpy().astype(np.int64)
    return plain_n
