"""One batch of stored votes: every question about it answered, as rows and as counts.

Shape suffixes: R rows, N of them with votes, V ablations, T slots of a vote set, K right classes.

Answers about a batch of images, and the rows of the datasets that hold them.

Shape suffixes: R rows, N of them with votes.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.views.family import IntArray
from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch, vote_batches
from pipeline.certificates.detection import Leads, detection
from pipeline.certificates.largest import largest
from pipeline.certificates.rule import ALERT, Rule
from pipeline.certificates.rules import largest_rules, rule_named
from pipeline.certificates.subsets import coarser_places
from pipeline.certificates.votes import renumbered
from pipeline.runs.labels import Labels
from pipeline.runs.manifest import Manifest
from pipeline.runs.rows import gaps_array, plain_array, votes_array
from pipeline.runs.schema import CERTIFICATES, DETECTION, IMAGES
from pipeline.runs.store import StoreError
from pipeline.scoring.claims import Claim, Claims
from pipeline.scoring.source import OnGrid, among, certifiable, on_grids, stand_in
from pipeline.scoring.summary import Totals, leads_by_tau

NO_MARGIN = np.iinfo(np.int32).min
"""Stands for the margin of a class that is not there; below every margin, and null in rows."""


class BatchResults:
    """Results about N images; every array int (N,) but ``leads_3n``.

    Attributes:
        predictions: Smoothed prediction, by stride.
        decided: Prediction of its rule, by claim.
        lead_n: Lead of the run's own prediction.
        margins: By claim.
        leads_3n: The ``Leads`` by alert; int (3, N).
        largest: Largest certified side, by rule; none of votes at drawn positions.
        on_grids: The images by what they make of a threat on the source, by threat.
        too_large_n: Images for whose rectangle a rule has no decision, by claim on the source.
    """

    def __init__(self, images: int, questions: Claims, manifest: Manifest) -> None:
        self.lead_n = np.zeros(images, np.int64)
        # In one order, so that the same questions always write the same files.
        claims = sorted(questions.claims, key=lambda claim: claim.order)
        alerts = sorted(questions.alerts, key=lambda alert: alert.order)
        self.decided = {claim: np.zeros(images, np.int64) for claim in claims}
        self.margins = {claim: np.full(images, NO_MARGIN, np.int64) for claim in claims}
        self.leads_3n = {alert: np.zeros((3, images), np.int64) for alert in alerts}
        strides = {manifest.defense.own_stride}
        strides.update(claim.stride for claim in claims)
        strides.update(alert.stride for alert in alerts)
        self.predictions = {stride: np.zeros(images, np.int64) for stride in strides}
        rules = largest_rules(
            manifest.defense.views, randomized=manifest.defense.voting.draws is not None
        )
        self.largest = {rule.name: np.zeros(images, np.int64) for rule in rules}
        self.on_grids: dict[Threat, list[OnGrid]] = {}
        self.too_large_n = {
            claim: np.zeros(images, bool) for claim in claims if claim.threat.source
        }


def rows_of(table: pa.Table, answers: BatchResults) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Rows of the certificates, the images and the detection dataset.

    Args:
        table: R rows of the votes dataset.
        answers: About the N of them that have no error.
    """
    voted = table["error"].is_null().to_numpy()
    prediction = {
        stride: _spread(predictions_n, voted)
        for stride, predictions_n in answers.predictions.items()
    }
    certificates = [
        _rows(
            table,
            CERTIFICATES,
            claim.to_dict()
            | {
                "prediction": _spread(
                    np.where(answers.decided[claim] == ALERT, NO_MARGIN, answers.decided[claim]),
                    voted,
                ),
                "certified": _spread(margins_n, voted).fill_null(-1).to_numpy() >= 0,
                "margin": _spread(margins_n, voted),
                "on_grid": _texts(answers.on_grids.get(claim.threat, []), voted),
            },
        )
        for claim, margins_n in answers.margins.items()
    ]
    detection = [
        _rows(
            table,
            DETECTION,
            {
                "prediction": prediction[alert.stride],
                "threat": str(alert.threat),
                "stride": alert.stride,
                "lead": _spread(lead_n, voted),
                "attack_lead": _spread(attack_lead_n, voted),
                "kept_lead": _spread(kept_lead_n, voted),
            },
        )
        for alert, (lead_n, attack_lead_n, kept_lead_n) in answers.leads_3n.items()
    ]
    largest = {
        f"largest_{rule}_px": _spread(sides_n, voted) for rule, sides_n in answers.largest.items()
    }
    images = _rows(table, IMAGES, {"lead": _spread(answers.lead_n, voted), **largest})
    return (
        pa.concat_tables([CERTIFICATES.empty_table(), *certificates]),
        images,
        pa.concat_tables([DETECTION.empty_table(), *detection]),
    )


def _rows(table: pa.Table, schema: pa.Schema, columns: dict[str, Any]) -> pa.Table:
    """Rows of a dataset: columns as given, an array or one value for all, or those of the votes."""
    arrays = []
    for field in schema:
        column = columns.get(field.name)
        if field.name not in columns and field.name in table.schema.names:
            column = table[field.name]
        elif not isinstance(column, (pa.Array, np.ndarray)):
            column = pa.repeat(pa.scalar(column, field.type), table.num_rows)
        arrays.append(column)
    return pa.table(arrays, schema=schema)


def _spread(values_n: IntArray, voted: NDArray[np.bool_]) -> pa.Array:
    """Values of the rows with votes as a column of all rows; null elsewhere, and for no margin."""
    values = np.full(len(voted), NO_MARGIN, np.int32)
    values[voted] = values_n
    return pa.array(values, mask=values == NO_MARGIN)


def _texts(groups: list[OnGrid], voted: NDArray[np.bool_]) -> pa.Array:
    """The rectangle of each image as a column of all rows; null where there is none."""
    texts_n = np.full(int(voted.sum()), None, object)
    for patch, images in groups:
        texts_n[images] = str(Threat(patch))
    texts = np.full(len(voted), None, object)
    texts[voted] = texts_n
    return pa.array(texts, pa.string())


class Scored(NamedTuple):
    """Rows of the datasets, and their counts.

    Attributes:
        certificates: One row an image and claim.
        images: One row an image.
        detection: One row an image and alert.
        totals: The counts.
    """

    certificates: pa.Table
    images: pa.Table
    detection: pa.Table
    totals: Totals


def score_votes(table: pa.Table, manifest: Manifest, questions: Claims) -> Scored:
    """Answer every question about a batch.

    Args:
        table: Rows of the votes dataset; ``counts``, ``views`` and ``gaps`` may be missing.
        manifest: The run.
        questions: What is asked; the dataset of images needs no question.

    Raises:
        StoreError: A stored prediction is not that of the votes beside it.
    """
    voted = table.filter(table["error"].is_null())
    labels = Labels.of(voted)
    votes = votes_array(voted, manifest.defense)
    answers = BatchResults(len(votes), questions, manifest)
    for threat in {claim.threat for claim in answers.too_large_n}:
        answers.on_grids[threat] = on_grids(voted, threat, manifest.defense)
    if len(votes):
        _ask(answers, votes, voted, labels, manifest)
    differs = answers.predictions[manifest.defense.own_stride] != voted["prediction"].to_numpy()
    if differs.any():
        raise StoreError(
            f"image_id={voted['image_id'][int(differs.argmax())]}: the stored prediction is not "
            "that of the votes beside it; delete the run and vote again"
        )
    totals = Totals(
        images=table.num_rows,
        errors=table.num_rows - voted.num_rows,
        unlabelled=table.num_rows - int(Labels.of(table).known.sum()),
        plain_right=int(labels.accept(plain_array(voted)).sum()),
    )
    if len(votes):
        accepted = labels.accept(votes)
        # Of a set of votes one right class is enough, and counts once.
        totals.views_asked = int((votes >= 0).sum()) if votes.ndim == 2 else accepted[..., 0].size
        totals.ablations_right = int((accepted if votes.ndim == 2 else accepted.any(-1)).sum())
    _count(totals, answers, labels, manifest)
    return Scored(*rows_of(table, answers), totals)


def _ask(
    answers: BatchResults, votes: IntArray, voted: pa.Table, labels: Labels, manifest: Manifest
) -> None:
    """Fill in the answers."""
    classes = manifest.defense.network.voted_classes
    votes, right_nk, plain_n = (
        renumbered(given, manifest.defense.network.classes)
        for given in (votes, labels.classes, plain_array(voted))
    )
    # Read where a claim looks at them.
    gaps_nv = gaps_array(voted) if "gaps" in voted.column_names else None
    slots = manifest.defense.voting.most_votes
    for stride, predictions_n in answers.predictions.items():
        places: IntArray | slice = slice(None)
        views = manifest.defense.views
        if stride != manifest.defense.own_stride and stride is not None:
            places, views = coarser_places(manifest.defense.ablation, stride)
        for images, batch in vote_batches(
            votes[:, places],
            views,
            len(classes),
            slots=slots,
            drawn=manifest.defense.voting.draws is not None,
            plain_n=plain_n,
            gaps_nv=None if gaps_nv is None else gaps_nv[:, places],
        ):
            predictions_n[images] = classes[batch.ranked.predictions]
            for claim, margins_n in answers.margins.items():
                if claim.stride == stride:
                    on_grid = among(answers.on_grids.get(claim.threat, []), images)
                    early = manifest.defense.voting.early_exit
                    found = _answer(claim, batch, right_nk[images], on_grid, early=early)
                    answers.decided[claim][images] = np.where(
                        found.decided_n == ALERT, ALERT, classes[found.decided_n]
                    )
                    margins_n[images] = found.margins_n
                    if claim.threat.source:
                        answers.too_large_n[claim][images] = found.too_large_n
            for alert, leads_3n in answers.leads_3n.items():
                if alert.stride == stride:
                    leads_3n[:, images] = detection(batch, alert.threat)
            if stride == manifest.defense.own_stride:
                counts_nk = batch.ranked.counts_nk
                answers.lead_n[images] = counts_nk[:, 0] - counts_nk[:, 1]
                least_n = None
                for name, sides_n in answers.largest.items():
                    # Each rule certifies all that the one before it does.
                    sides_n[images] = least_n = largest(batch, rule_named(name), least_n)


class Answer(NamedTuple):
    """Answers of a rule about N images.

    Attributes:
        decided_n: Its answer, or ``ALERT``; int64 (N,).
        margins_n: Margins; int64 (N,).
        too_large_n: Images for whose rectangle it has no decision; bool (N,).
    """

    decided_n: IntArray
    margins_n: IntArray
    too_large_n: NDArray[np.bool_]


def _answer(
    claim: Claim, batch: VoteBatch, right_nk: IntArray, on_grid: Iterable[OnGrid], *, early: bool
) -> Answer:
    """Answer a claim about the images of a batch.

    Args:
        claim: The claim.
        batch: Their votes.
        right_nk: Their right classes.
        on_grid: The images by their rectangles, of a threat on the source.
        early: Whether the votes were cast with early exit.
    """
    assumed = None if claim.assumes == claim.threat else claim.assumes
    rule = rule_named(claim.rule).at(claim.terms._replace(assumed=assumed))
    nothing = np.zeros(len(batch), np.int64)
    answer = Answer(nothing, nothing.copy(), nothing.astype(bool))
    if not claim.threat.source:
        margins_n = _margins(batch, rule, claim, right_nk, claim.threat)
        return answer._replace(decided_n=rule.predict(batch, claim.threat), margins_n=margins_n)
    for patch, images in on_grid:
        part, wanted = batch.take(images), Threat(patch, count=claim.threat.count)
        threat = certifiable(rule, batch.views, wanted, batch.num_classes, claim.top_k, early=early)
        built_for = threat or stand_in(batch.views, assumed)
        answer.decided_n[images] = rule.predict(part, built_for)
        answer.too_large_n[images] = threat is None
        answer.margins_n[images] = (
            NO_MARGIN if threat is None else _margins(part, rule, claim, right_nk[images], threat)
        )
    return answer


def _margins(
    batch: VoteBatch, rule: Rule, claim: Claim, right_nk: IntArray, threat: Threat
) -> IntArray:
    """Margins of a claim, by its rule, about some images; int (N,)."""
    if claim.top_k == 1:
        return rule.margins(batch, threat)
    margins_n = np.full(len(batch), NO_MARGIN, np.int64)
    # Of several right classes it is enough that one cannot be evicted.
    for right_n in right_nk.T:
        images = np.flatnonzero(right_n >= 0)
        stays_n = rule.top_k_margins(batch.take(images), threat, claim.top_k, right_n[images])
        margins_n[images] = np.maximum(margins_n[images], stays_n)
    return margins_n


def _count(totals: Totals, answers: BatchResults, labels: Labels, manifest: Manifest) -> None:
    """Add the answers to the counts."""
    right = {stride: labels.accept(given) for stride, given in answers.predictions.items()}
    totals.smoothed_right = Counter({stride: int(holds.sum()) for stride, holds in right.items()})
    for claim, margins_n in answers.margins.items():
        holds = margins_n >= 0
        totals.certified[claim] = int(holds.sum())
        clean = labels.accept(answers.decided[claim])
        totals.clean_right[claim] = int(clean.sum())
        totals.alerts[claim] = int((answers.decided[claim] == ALERT).sum())
        # Above top_k 1 the claim is about a right class.
        rightly = holds & clean if claim.top_k == 1 else holds
        totals.certified_right[claim] = int(rightly.sum())
    for claim, too_large_n in answers.too_large_n.items():
        totals.too_large[claim] = int(too_large_n.sum())
        for patch, images in answers.on_grids[claim.threat]:
            totals.on_grid[claim.threat, patch] = len(images)
    own = right[manifest.defense.own_stride]
    sides = min(manifest.defense.views.height, manifest.defense.views.width) + 1
    for rule, sides_n in answers.largest.items():
        totals.largest_right[rule] = np.bincount(sides_n[own], minlength=sides)
    for alert, leads_3n in answers.leads_3n.items():
        of_right = Leads(*leads_3n[:, right[alert.stride]])
        totals.leads_right[alert] = leads_by_tau(of_right, manifest.defense.votes_per_image)
