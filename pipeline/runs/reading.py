"""Stored votes of a run, some units at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from models.views.family import IntArray
from pipeline.certificates.votes import VoteArray, renumbered
from pipeline.runs.defense import Defense
from pipeline.runs.labels import Labels
from pipeline.runs.manifest import Manifest
from pipeline.runs.rows import votes_array
from pipeline.runs.store import VotesStore

_VOTES = ("image_id", "label", "labels", "votes", "vote_sets", "prediction", "error")


@dataclass(frozen=True)
class VoteRows:
    """Rows of the votes dataset, N of them without an error.

    Attributes:
        table: All rows.
        defense: The defense that voted.
    """

    table: pa.Table
    defense: Defense

    @cached_property
    def voted(self) -> pa.Table:
        """The rows without an error."""
        return self.table.filter(self.table["error"].is_null())

    @cached_property
    def votes(self) -> IntArray:
        """Their votes, in the model's class numbers: (N, V), or sets (N, V, T) padded with -1."""
        return votes_array(self.voted, self.defense)

    @property
    def renumbered(self) -> VoteArray:
        """The votes as the rules take them: for classes from 0 to the number voted for."""
        return renumbered(self.votes, self.defense.network.classes)

    @property
    def labels(self) -> Labels:
        """Their right classes."""
        return Labels.of(self.voted)

    @property
    def predictions_n(self) -> IntArray:
        """Their smoothed predictions."""
        predictions_n: IntArray = self.voted["prediction"].to_numpy().astype(np.int64)
        return predictions_n

    @property
    def plain_n(self) -> IntArray:
        """Predictions of their whole images, -1 where unknown; where the column was read."""
        plain_n: IntArray = self.voted["plain_prediction"].fill_null(-1).to_numpy().astype(np.int64)
        return plain_n


def columns_of(manifest: Manifest, *names: str) -> list[str]:
    """Return the columns among ``names`` that a run has, in its order."""
    return [name for name in manifest.schema.names if name in names]


def vote_columns(manifest: Manifest, *others: str) -> list[str]:
    """Return the columns of ``VoteRows``, and others."""
    return columns_of(manifest, *_VOTES, *others)


def tables(store: VotesStore, columns: Sequence[str], *, images: int = 1) -> Iterator[pa.Table]:
    """Read all rows, as many units at a time as hold so many images; one at least.

    Raises:
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    waiting: list[pa.Table] = []
    for unit in store.read(list(columns)):
        waiting.append(unit)
        if sum(table.num_rows for table in waiting) >= images:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def batches(
    store: VotesStore, manifest: Manifest, *others: str, images: int = 1
) -> Iterator[VoteRows]:
    """Read the votes as ``tables`` does, with the columns ``others`` beside them."""
    for table in tables(store, vote_columns(manifest, *others), images=images):
        yield VoteRows(table, manifest.defense)
