"""Select the images of a run to attack: certified ones and others, drawn by a seed.

Shapes: N images with votes, V views, T slots of a vote set.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.views.family import BoolArray, IntArray
from models.views.masks import Masks
from models.views.threats import Threat
from pipeline.attack.target import Asked, targets_of
from pipeline.certificates.votes import VoteArray
from pipeline.config import ConfigError
from pipeline.runs.labels import Labels
from pipeline.runs.manifest import Manifest
from pipeline.runs.reading import VoteRows, batches, tables, vote_columns
from pipeline.runs.resolve import default_patches, default_threats
from pipeline.runs.store import VotesStore
from pipeline.scoring.source import SIZE_COLUMNS


@dataclass(frozen=True, kw_only=True)
class Margins:
    """Margins of every image of a run, by the target's rule and one threat.

    Attributes:
        image_ids: Images with votes, in the listing's order; N of them.
        margins_n: Margins; certified iff >= 0; ``UNDECIDED`` where the rule has no decision.
        right_n: True where the answer is right; False without a label.
        images: Number of images of the run, also those without votes.
        labelled: Number of images with a label, also those without votes.
    """

    image_ids: list[str]
    margins_n: IntArray
    right_n: BoolArray
    images: int
    labelled: int

    @property
    def certified_n(self) -> BoolArray:
        """Images that the rule certifies, right or wrong."""
        return np.asarray(self.margins_n >= 0)

    @property
    def open_n(self) -> BoolArray:
        """Images that an attack could cost: not certified, and right where labels are known."""
        lost = ~self.right_n if self.labelled else np.zeros(len(self.margins_n), dtype=bool)
        return ~self.certified_n & ~lost


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The images to attack, N of them.

    Attributes:
        image_ids: Their ids.
        margins_n: Margins.
        asked: The targets, with the numbers of their images.
        votes: Stored votes: class numbers of the model; (N, V) with -1 where a view was not asked,
            or (N, V, T) with -1.
        plain_n: Stored predictions of the whole images, -1 where unknown.
        predictions_n: Answers to the stored votes, ``ALERT`` for an alert.
        labels: Right classes, where known.
    """

    image_ids: list[str]
    margins_n: IntArray
    asked: list[Asked]
    votes: VoteArray
    plain_n: IntArray
    predictions_n: IntArray
    labels: Labels

    @property
    def certified_n(self) -> BoolArray:
        """Images that the rule certifies."""
        return np.asarray(self.margins_n >= 0)


def check_attackable(manifest: Manifest) -> None:
    """Raise ConfigError where views were drawn for each image."""
    if manifest.defense.voting.draws is not None:
        raise ConfigError(
            f"run_id={manifest.run_id} is randomized: its certificate is about the ideal "
            "classifier over all positions, which votes at drawn ones cannot refute; choose a run "
            "over a fixed family (--stride or --positions)"
        )


def threat_of(asked: Threat | None, store: VotesStore, manifest: Manifest) -> Threat:
    """Return the rectangle that was asked for, in pixels, or the default one.

    Of masks that is the patch that they are cut for, of ablations the smallest square that the run
    was certified for.

    Raises:
        ConfigError: It does not fit the image, or the masks are cut for several.
    """
    views = manifest.defense.views
    threat = _default_threat(store, manifest) if asked is None else asked.on(views)
    if threat.patch is not None and not threat.source:
        try:
            views.check_patch(threat.patch)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return threat


def _default_threat(store: VotesStore, manifest: Manifest) -> Threat:
    views = manifest.defense.views
    if not isinstance(views, Masks):
        summary = store.read_summary()
        claims = summary["certified_accuracy"] if summary else []
        sides = [side for claim in claims if (side := claim.get("patch_px"))]
        return Threat.square(min(sides or default_patches(views) or (1,)))
    if len(views.covers) == 1:
        return Threat(views.covers[0])
    remedy = f"give one, such as --patch {Threat(views.covers[len(views.covers) // 2])}"
    if manifest.defense.voting.early_exit:
        remedy = "votes cast with early exit answer for none alone: vote with --all-views"
    raise ConfigError(
        f"run_id={manifest.run_id}: its masks cover {default_threats(views)[0]}, and one rectangle "
        f"of a given shape is tried at a time; {remedy}"
    )


def read_margins(store: VotesStore, manifest: Manifest, threat: Threat) -> Margins:
    """Compute the margin of every image of a run, by the target's rule.

    Raises:
        ConfigError: The votes cannot answer for the threat.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    image_ids: list[str] = []
    margins, right = [], []
    images = labelled = 0
    for batch in batches(store, manifest, "plain_prediction", *_sizes(threat)):
        images += batch.table.num_rows
        labelled += int(Labels.of(batch.table).known.sum())
        image_ids += batch.voted["image_id"].to_pylist()
        if batch.voted.num_rows:
            asked = targets_of(manifest.defense, threat, batch.voted)
            margins_n = np.empty(batch.voted.num_rows, np.int64)
            for target, own in asked:
                margins_n[own] = target.margins(batch.votes[own], batch.plain_n[own])
            margins.append(margins_n)
            right.append(batch.labels.accept(_answers(batch, asked)))
    return Margins(
        image_ids=image_ids,
        margins_n=np.concatenate([*margins, np.empty(0, np.int64)]),
        right_n=np.concatenate([*right, np.empty(0, bool)]),
        images=images,
        labelled=labelled,
    )


def choose(margins: Margins, images: int, seed: int) -> IntArray:
    """Draw the numbers of the images to attack, ascending: half certified, half open.

    Where one kind has too few, the other has more.

    Raises:
        ConfigError: No image is certified, and none is right.
    """
    certified, others = np.flatnonzero(margins.certified_n), np.flatnonzero(margins.open_n)
    if not len(certified) + len(others):
        raise ConfigError("no image to attack: none is certified, and none is right")
    first = min(len(certified), max(-(-images // 2), images - len(others)))
    second = min(len(others), images - first)
    rng = np.random.default_rng([seed, 0])
    chosen = [
        rng.choice(certified, first, replace=False),
        rng.choice(others, second, replace=False),
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def read_selected(
    store: VotesStore, manifest: Manifest, margins: Margins, chosen_n: IntArray, threat: Threat
) -> Selected:
    """Read the stored votes of the chosen images.

    Raises:
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    wanted = pa.array([margins.image_ids[number] for number in chosen_n], pa.string())
    table = pa.concat_tables(
        table.filter(pc.is_in(table["image_id"], value_set=wanted))
        for table in tables(store, vote_columns(manifest, "plain_prediction", *_sizes(threat)))
    )
    assert table["image_id"].to_pylist() == wanted.to_pylist()
    rows = VoteRows(table, manifest.defense)
    asked = targets_of(manifest.defense, threat, rows.voted)
    return Selected(
        image_ids=wanted.to_pylist(),
        margins_n=margins.margins_n[chosen_n],
        asked=asked,
        votes=rows.votes,
        plain_n=rows.plain_n,
        predictions_n=_answers(rows, asked),
        labels=rows.labels,
    )


def _sizes(threat: Threat) -> tuple[str, ...]:
    """The further columns that a threat needs."""
    return SIZE_COLUMNS if threat.source else ()


def _answers(rows: VoteRows, asked: list[Asked]) -> IntArray:
    """The answer to each image, by its target; int (N,)."""
    answers_n = np.empty(rows.voted.num_rows, np.int64)
    for target, images in asked:
        given = rows.votes[images], rows.plain_n[images], rows.predictions_n[images]
        answers_n[images] = target.answers(*given)
    return answers_n
