"""One stored run, for a notebook or a script: tables, votes, and the rules as functions on them."""

import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.views.ablations import Ablation
from models.views.family import BoolArray, IntArray, Patch, ViewFamily
from models.views.threats import Threat
from pipeline import storage
from pipeline.analysis.stored import DATASETS, dataset
from pipeline.certificates.locations import LocationMargins, location_margins
from pipeline.certificates.randomized import CONFIDENCE
from pipeline.certificates.rules import margins, rule_for
from pipeline.certificates.votes import VoteArray, renumbered
from pipeline.certificates.witness import Witnesses, witnesses
from pipeline.config import ConfigError
from pipeline.runs.labels import Labels
from pipeline.runs.manifest import Manifest
from pipeline.runs.reading import batches
from pipeline.runs.schema import Summary
from pipeline.runs.store import VotesStore, run_ids

Frame = Literal["arrow", "pandas", "polars"]
# Folders that are looked into for runs where a folder holds none itself.
_LOOKED_INTO = 20


def open_run(out: str | os.PathLike[str], run_id: str | None = None) -> "Run":
    """Open a stored run; nothing is read until it is asked for.

    Args:
        out: Folder of all results, local or s3://.
        run_id: The run, or the beginning of its id; may be left out where there is one only.

    Raises:
        ConfigError: There is no such run, or more than one.

    Example:
        >>> from pipeline.analysis import open_run
        >>> run = open_run(OUT)
        >>> run.ablation.kind, len(run.ablation), run.num_classes
        ('column', 10, 4)
        >>> run.table("votes", ["image_id", "error"], into="pandas").error.dropna().tolist()
        ['not a picture']
        >>> len(run.votes.ids)
        5
    """
    out = os.fspath(out)
    found = run_ids(out)
    fitting = [name for name in found if name.startswith(run_id or "")]
    if run_id in found:
        fitting = [run_id]
    if len(fitting) == 1:
        return Run(out, fitting[0])
    if not found:
        below = [storage.join(out, name) for name in storage.list_folders(out)[:_LOOKED_INTO]]
        near = next((folder for folder in below if run_ids(folder)), None)
        hint = "`patchcert run` makes one" if near is None else f"did you mean --out {near}?"
        raise ConfigError(f"--out {out} holds 0 runs: {hint}")
    listed = ", ".join(fitting or found)
    if run_id is None:
        raise ConfigError(f"--out {out} holds {len(found)} runs ({listed}): name one of them")
    if fitting:
        raise ConfigError(
            f"run {run_id}: {len(fitting)} runs begin so ({listed}): write more of it"
        )
    raise ConfigError(f"run {run_id}: there is no such run under {out} (there are: {listed})")


class VotedImages(NamedTuple):
    """The images of a run that could be voted on, in its order.

    Attributes:
        ids: Image ids; str (N,).
        labels: Their right classes.
        votes: Class that each ablation voted for, (N, V), or the set of classes, (N, V, T) with -1
            in empty slots; integers. Of a randomized run the V are the drawn ones.
    """

    ids: NDArray[np.object_]
    labels: Labels
    votes: VoteArray


@dataclass(frozen=True)
class Run:
    """A stored run. Made by ``open_run``.

    Images with an error have rows in every table and no votes: they are missing in ``votes`` and
    in all that is computed from votes here, so divide by ``summary["images"]``, not by ``len``.

    Attributes:
        out: Folder of all results, local or s3://.
        run_id: The run.
    """

    out: str
    run_id: str

    @property
    def store(self) -> VotesStore:
        """The stored votes."""
        return VotesStore(self.out, self.run_id)

    @cached_property
    def manifest(self) -> Manifest:
        """Everything that determined the votes.

        Raises:
            ManifestError: It is missing, or contradicts the run's id.
        """
        return self.store.manifest()

    @cached_property
    def summary(self) -> Summary | None:
        """Accuracies, as ``patchcert certify`` wrote them; None where it has not."""
        return self.store.read_summary()

    @property
    def views(self) -> ViewFamily:
        """The views that voted, or were drawn from, of any family."""
        return self.manifest.defense.views

    @property
    def ablation(self) -> Ablation:
        """The same, for a question about ablations.

        Raises:
            ConfigError: The views hide instead.
        """
        return self.manifest.defense.ablation

    @property
    def dtype(self) -> str:
        """Arithmetic of the votes, float32 or bfloat16."""
        return str(self.manifest.numerics.dtype)

    @property
    def num_classes(self) -> int:
        """Number of classes that can be voted for."""
        return len(
            self.manifest.defense.network.classes
            or range(self.manifest.defense.network.num_classes)
        )

    @overload
    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table: ...
    @overload
    def table(self, name: str, columns: Sequence[str] | None = None, *, into: Frame) -> Any: ...
    def table(
        self, name: str, columns: Sequence[str] | None = None, *, into: Frame = "arrow"
    ) -> Any:
        """A dataset of the run, without rows where it has not been written.

        Args:
            name: votes, certificates, images, detection, locations, witnesses or attacks.
            columns: Only these columns.
            into: As an Arrow table, a pandas or a polars data frame.

        Raises:
            ConfigError: There is no such dataset, or polars is not installed.

        Example:
            >>> open_run(OUT).table("votes", ["image_id", "label", "prediction"]).to_pylist()[3]
            {'image_id': 'shard-000/003', 'label': 1, 'prediction': 0}
        """
        if name not in DATASETS:
            raise ConfigError(f"{name}: there is no such dataset; choose {', '.join(DATASETS)}")
        table = dataset(self.out, name, [self.run_id]).to_table(columns=columns and list(columns))
        if into == "pandas":
            return table.to_pandas()
        if into == "polars":
            try:
                return importlib.import_module("polars").from_arrow(table)
            except ImportError as error:
                raise ConfigError("polars is not installed: pip install polars") from error
        return table

    def batches(self, votes: int = 1) -> Iterator[tuple[pa.Table, VoteArray]]:
        """Rows of the votes without an error, and their votes, some units at a time.

        Args:
            votes: As many units as hold so many votes; one at least.

        Raises:
            ManifestError, StoreError: The votes are absent, incomplete or contradictory.
        """
        images = votes // self.manifest.defense.votes_per_image
        for batch in batches(self.store, self.manifest, "plain_prediction", images=images):
            yield batch.voted, _narrow(batch.votes)

    @cached_property
    def votes(self) -> VotedImages:
        """All votes at once: 2 N V bytes for one vote an ablation.

        Raises:
            ManifestError, StoreError: The votes are absent, incomplete or contradictory.
        """
        parts = [(table, votes) for table, votes in self.batches() if table.num_rows]
        if not parts:
            shape = (0, self.manifest.defense.votes_per_image)
            sets = self.manifest.defense.voting.vote_sets
            empty = np.empty((*shape, 1) if sets else shape, np.int32)
            return VotedImages(np.empty(0, object), Labels(np.empty((0, 1), np.int64)), empty)
        rows = pa.concat_tables([table for table, _ in parts])
        return VotedImages(
            np.array(rows["image_id"].to_pylist(), dtype=object),
            Labels.of(rows),
            _stacked([votes for _, votes in parts]),
        )

    def margins(
        self, rule: str, threat: "int | str | Threat", *, confidence: float = CONFIDENCE
    ) -> IntArray:
        """Margin of each image of ``votes`` under a rule, certified iff >= 0; int64 (N,).

        Args:
            rule: Name of a rule about such votes, such as exact; of masks two-location.
            threat: Side of a square in pixels, or a text such as 16x48, area:1024 or 2of32.
            confidence: Confidence for each image, for the randomized rule.

        Raises:
            ValueError: There is no such rule, or it refuses the votes or the threat.
            ManifestError, StoreError: The votes are absent, incomplete or contradictory.

        Example:
            >>> open_run(OUT).margins("exact", 2).tolist()
            [3, -1, -4, -4, 3]
            >>> open_run(OUT).margins("exact", "10x3").tolist()
            [1, -3, -6, -4, 1]
        """
        threat = (threat if isinstance(threat, Threat) else Threat.parse(threat)).on(self.views)
        if self.manifest.defense.voting.early_exit:
            asked = rule_for(rule, randomized=False)
            asked.check(self.views, threat, self.num_classes)  # it says more where both refuse
            asked.check_early(self.views, threat)
        return margins(
            rule,
            self.renumbered(self.votes.votes),
            self.views,
            threat,
            self.num_classes,
            randomized=self.manifest.defense.voting.draws is not None,
            confidence=confidence,
        )

    def certified(self, rule: str, threat: "int | str | Threat") -> BoolArray:
        """Images of ``votes`` that keep their prediction, right or wrong; bool (N,).

        Arguments and errors: ``margins``.
        """
        holds: BoolArray = self.margins(rule, threat) >= 0
        return holds

    def location_margins(self, patch: Patch) -> Iterator[tuple[slice, LocationMargins]]:
        """Margins and closest rivals of each image of ``votes`` at every place of a patch.

        Slices of the images in order, in bounded memory; classes as numbered by ``renumbered``.

        Raises:
            ConfigError: The positions were drawn at random, so no rule speaks of each.
            ValueError: The patch does not fit the image.
        """
        self.check_fixed()
        votes = self.renumbered(self.votes.votes)
        return location_margins(votes, self.ablation, patch, self.num_classes)

    def witnesses(self, patch: Patch) -> Witnesses:
        """The place and the rival by which each image of ``votes`` comes closest to another class.

        Classes as numbered by ``renumbered``; errors as ``location_margins``.

        Example:
            >>> found = open_run(OUT).witnesses(Patch.square(2))
            >>> found.margins_n[2], found.xs_n[2], found.predictions_n[2], found.rivals_n[2]
            (np.int64(-4), np.int64(1), np.int64(0), np.int64(3))
        """
        self.check_fixed()
        return witnesses(self.renumbered(self.votes.votes), self.ablation, patch, self.num_classes)

    def renumbered(self, votes: VoteArray) -> VoteArray:
        """Votes as the rules take them: for classes 0 .. ``num_classes`` - 1.

        These are the model's own numbers, unless the run was restricted by ``--classes``: classes
        that no ablation can vote for are no rivals. The order of classes stays, and every tie.
        """
        return renumbered(votes, self.manifest.defense.network.classes)

    def check_fixed(self) -> None:
        """Raise ConfigError where the positions were drawn at random for each image."""
        if self.manifest.defense.voting.draws is not None:
            raise ConfigError(
                f"run {self.run_id}: its positions were drawn at random for each image, so it is "
                "not known what a patch at one place touches; use a run without --randomized"
            )


def _narrow(votes: VoteArray) -> VoteArray:
    """Classes fit in two bytes; -1, for an empty slot or a view not asked, needs a third."""
    whole = votes.ndim == 2 and votes.min(initial=0) >= 0
    return votes.astype(np.uint16 if whole else np.int32)


def _stacked(parts: list[VoteArray]) -> VoteArray:
    """Votes of several units as one; sets are padded to the largest."""
    if parts[0].ndim == 2:
        return np.concatenate(parts)
    slots = max(part.shape[2] for part in parts)
    padding = ((0, 0), (0, 0))
    return np.concatenate(
        [np.pad(p, (*padding, (0, slots - p.shape[2])), constant_values=-1) for p in parts]
    )
