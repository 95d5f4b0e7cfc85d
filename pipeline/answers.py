"""Answers about a batch of images, and the rows of the datasets that hold them.

Shape suffixes: R rows, N of them with votes.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.certificates.detection import Leads
from pipeline.claims import Questions, own_stride
from pipeline.manifest import Manifest
from pipeline.schema import CERTIFICATES, DETECTION, IMAGES

IntArray = NDArray[np.int64]

NO_MARGIN = np.iinfo(np.int32).min
"""Stands for the margin of a class that is not there; below every margin, and null in rows."""


class Answers:
    """What is found out about N images; every array int (N,).

    Attributes:
        predictions: Smoothed prediction, by stride.
        lead_n: Lead of the run's own prediction.
        margins: By claim.
        leads: By alert.
        largest: Largest certified side, by rule; none of votes at drawn positions.
    """

    def __init__(self, images: int, questions: Questions, manifest: Manifest) -> None:
        self.lead_n = np.zeros(images, np.int64)
        # In one order, so that the same questions always write the same files.
        claims = sorted(questions.claims, key=lambda claim: claim.order)
        alerts = sorted(questions.alerts, key=lambda alert: alert.order)
        self.margins = {claim: np.full(images, NO_MARGIN, np.int64) for claim in claims}
        self.leads = {alert: Leads(*np.zeros((3, images), np.int64)) for alert in alerts}
        strides = {own_stride(manifest)}
        strides.update(claim.stride for claim in claims)
        strides.update(alert.stride for alert in alerts)
        self.predictions = {stride: np.zeros(images, np.int64) for stride in strides}
        rules = () if manifest.draws else ("uniform", "exact")
        self.largest = {rule: np.zeros(images, np.int64) for rule in rules}


def rows_of(table: pa.Table, answers: Answers) -> tuple[pa.Table, pa.Table, pa.Table]:
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
                "prediction": prediction[claim.stride],
                "certified": _spread(margins_n, voted).fill_null(-1).to_numpy() >= 0,
                "margin": _spread(margins_n, voted),
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
                "lead": _spread(leads.lead_n, voted),
                "attack_lead": _spread(leads.attack_lead_n, voted),
                "kept_lead": _spread(leads.kept_lead_n, voted),
            },
        )
        for alert, leads in answers.leads.items()
    ]
    largest = {
        f"largest_{rule}_px": _spread(answers.largest[rule], voted)
        for rule in ("exact", "uniform")
        if rule in answers.largest
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
