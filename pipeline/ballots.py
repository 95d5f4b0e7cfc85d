"""Ballots as rows of the votes dataset, and back: the one place that knows both layouts."""

import math
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


class Ballot(Protocol):
    """The votes of a batch (``models.smoothing.Ballot``, which imports torch)."""

    @property
    def votes_bv(self) -> IntArray:
        """One vote an ablation; (B, V)."""

    @property
    def plain_b(self) -> IntArray:
        """Class of the whole image; (B,)."""

    @property
    def vote_sets(self) -> IntArray | None:
        """Under threshold voting, -1 in empty slots; (B, V, T)."""

    @property
    def gaps_bv(self) -> NDArray[np.float16] | None:
        """Top-two logit gaps; (B, V)."""


def votes_table(
    rows: pa.Table,
    readable: IntArray,
    ballot: Ballot,
    schema: pa.Schema,
    views_bv: IntArray | None = None,
) -> pa.Table:
    """Rows of the votes dataset from a ballot.

    Args:
        rows: ``image_id``, ``label``, ``labels`` and ``error`` of all images, R rows.
        readable: Which of the rows were voted on, ascending; int (B,).
        ballot: Their votes.
        schema: Columns of the run.
        views_bv: Which ablations voted, where each image has its own; int (B, V).
    """
    columns: dict[str, Any] = {
        name: [None] * rows.num_rows
        for name in schema.names
        if name not in ("image_id", "label", "labels", "error")
    }
    for index, row in enumerate(readable):
        cast = ballot.votes_bv[index] if ballot.vote_sets is None else ballot.vote_sets[index]
        if ballot.vote_sets is None:
            columns["votes"][row] = cast.astype(np.uint16)
        else:
            columns["vote_sets"][row] = [votes[votes >= 0].tolist() for votes in cast]
        columns["counts"][row] = ranked = ranked_counts(cast)
        # Where no class reached the threshold, the lowest wins a tie of no votes.
        columns["prediction"][row] = ranked[0]["class"] if ranked else 0
        columns["plain_prediction"][row] = int(ballot.plain_b[index])
        if ballot.gaps_bv is not None:
            columns["gaps"][row] = ballot.gaps_bv[index]
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


def votes_array(table: pa.Table, theta: float | None) -> IntArray:
    """Votes of the rows without an error: (N, V), or sets (N, V, T) with -1 in empty slots.

    Args:
        table: Rows with ``votes``, or with ``vote_sets`` under threshold voting.
        theta: The threshold; None for argmax votes.
    """
    cells = table["votes" if theta is None else "vote_sets"].drop_null().combine_chunks()
    if not len(cells):
        return np.empty((0, 1) if theta is None else (0, 1, 1), dtype=np.int64)
    if theta is None:
        flat: IntArray = cells.flatten().to_numpy().astype(np.int64)
        return flat.reshape(len(cells), -1)
    sets = cells.flatten()
    lengths = sets.value_lengths().to_numpy()
    votes = np.full((len(sets), math.floor(1 / theta)), -1, dtype=np.int64)
    slots = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    votes[np.repeat(np.arange(len(sets)), lengths), slots] = sets.flatten().to_numpy()
    return votes.reshape(len(cells), -1, votes.shape[1])
