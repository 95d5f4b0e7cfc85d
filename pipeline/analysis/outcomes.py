"""Correctness of a run, image by image and question by question: the base of every statistic.

Images with an error are there and wrong in everything; images without a label are there too,
and left out by those who count.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.views.family import BoolArray, IntArray
from pipeline.analysis.run import Run
from pipeline.analysis.stored import dataset
from pipeline.certificates.rules import rule_named
from pipeline.runs.labels import Labels
from pipeline.runs.reading import columns_of
from pipeline.runs.store import StoreError
from pipeline.scoring.claims import Claim


class Measure(NamedTuple):
    """A question that an image can be right in.

    Attributes:
        what: plain (the network on the whole image), smoothed, clean (the answer of a rule that has
            one of its own, without a patch) or certified.
        claim: Of clean and certified: what is certified. Its stride is None for the run's own
            views, so that runs of several strides have questions in common.
        against: Between two runs, the second one's claim where it is of another rule.
    """

    what: str
    claim: Claim | None = None
    against: Claim | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: what, and the claim's fields."""
        against = {"against": self.against.to_dict()} if self.against else {}
        return {"what": self.what, **(self.claim.to_dict() if self.claim else {}), **against}

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key: no patch first, then as the claims."""
        # The clean accuracy of a claim beside what it certifies.
        first = {"plain": 0, "smoothed": 1}.get(self.what, 2)
        return first, self.claim.order if self.claim else (), self.what == "certified"


PLAIN, SMOOTHED = Measure("plain"), Measure("smoothed")


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """The images of a run, in its order.

    Attributes:
        run: The run.
        ids: Image ids; string (N,).
        labels: Right classes.
        errors: Images that could not be voted on; bool (N,).
        units: Which unit of the stored votes each image is in, ascending; int (N,).
        right: By question, whether the image is right in it; bool (N,). Views that hide have no
            smoothed prediction: each rule answers for itself.
        unattacked: By certificate that the prediction stays, whether the prediction of its rule,
            which need not be the smoothed one, is right without a patch; bool (N,).
    """

    run: Run
    ids: pa.ChunkedArray
    labels: Labels
    errors: BoolArray
    units: IntArray
    right: Mapping[Measure, BoolArray] = field(default_factory=dict)
    unattacked: Mapping[Measure, BoolArray] = field(default_factory=dict)

    def answer(self, claim: Claim) -> BoolArray:
        """Tell the images that the answer of a claim's rule classifies correctly; bool (N,)."""
        return self.unattacked[Measure("certified", claim)]

    def tables(self, images: IntArray, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read the stored rows of images by their places here, ascending; a table a unit."""
        for unit, places in by_unit(self.units[images]):
            first = int(np.searchsorted(self.units, unit))
            rows = self.run.store.read_unit(unit, list(columns))
            yield rows.take(pa.array(images[places] - first))


def by_unit(units: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Yield the units that occur, ascending, and the places where each does."""
    order = np.argsort(units, kind="stable")
    found, first = np.unique(units[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, first[1:]), strict=True)


def outcomes_of(run: Run) -> Outcomes:
    """Read the correctness of a run's images, by each prediction and each certificate.

    Raises:
        ManifestError, StoreError: The votes are absent or incomplete, or the certificates do not
            cover them.
    """
    names = ("image_id", "label", "labels", "prediction", "plain_prediction", "error")
    of_units = list(run.store.read(columns_of(run.manifest, *names)))
    rows = pa.concat_tables(of_units)
    labels = Labels.of(rows)
    right = {
        question: labels.accept(rows[column].fill_null(-1).to_numpy().astype(np.int64))
        for question, column in ((PLAIN, "plain_prediction"), (SMOOTHED, "prediction"))
        if (run.manifest.plain_known if question == PLAIN else not run.views.hides)
    }
    ids, seen = rows["image_id"], dict[Measure, int]()
    unattacked: dict[Measure, BoolArray] = {}
    for question, places, holds, predictions in _certificates(run, ids):
        mine = right.setdefault(question, np.zeros(rows.num_rows, bool))
        # Above top_k 1 the certificate itself is about a right class.
        assert question.claim is not None
        mine[places] = holds
        if question.claim.top_k == 1:
            clean = unattacked.setdefault(question, np.zeros(rows.num_rows, bool))
            clean[places] = Labels(labels.classes[places]).accept(predictions)
            mine[places] &= clean[places]
        seen[question] = seen.get(question, 0) + len(places)
    for question, count in seen.items():
        assert question.claim is not None
        if count != rows.num_rows:
            raise StoreError(
                f"run_id={run.run_id}: {count} certificates against {question.claim.threat} px for "
                f"{rows.num_rows} images; run `patchcert certify` again"
            )
    right |= {
        Measure("clean", question.claim): clean
        for question, clean in unattacked.items()
        if question.claim and rule_named(question.claim.rule).owns_answer
    }
    return Outcomes(
        run=run,
        ids=ids,
        labels=labels,
        errors=rows["error"].is_valid().to_numpy(),
        units=np.repeat(np.arange(len(of_units)), [unit.num_rows for unit in of_units]),
        right=right,
        unattacked=unattacked,
    )


def _certificates(
    run: Run, ids: pa.ChunkedArray
) -> Iterator[tuple[Measure, IntArray, BoolArray, IntArray]]:
    """Stored certificates by question: the images, whether certified, and their predictions."""
    own = run.manifest.defense.own_stride
    columns = ["image_id", "prediction", "certified", *Claim._fields]
    for batch in dataset(run.out, "certificates", [run.run_id]).to_batches(columns=columns):
        if not batch.num_rows:
            continue
        places = pc.index_in(batch["image_id"], ids.combine_chunks())
        if places.null_count:
            raise StoreError(
                f"run_id={run.run_id}: there are certificates of images without votes; run "
                "`patchcert certify` again"
            )
        places_n = places.to_numpy().astype(np.int64)
        predictions_n = batch["prediction"].fill_null(-1).to_numpy().astype(np.int64)
        certified_n = batch["certified"].to_numpy(zero_copy_only=False)
        claims, claim_n = _distinct(batch)
        for number, claim in enumerate(claims):
            of_own = claim._replace(stride=None) if claim.stride == own else claim
            question = Measure("certified", of_own)
            chosen = claim_n == number
            yield question, places_n[chosen], certified_n[chosen], predictions_n[chosen]


def _distinct(batch: pa.RecordBatch) -> tuple[list[Claim], IntArray]:
    """The distinct claims of a batch, and which of them each row is about."""
    codes_n = np.zeros(batch.num_rows, np.int64)
    for name in Claim._fields:
        encoded = batch[name].dictionary_encode(null_encoding="encode")
        codes_n = codes_n * (len(encoded.dictionary) + 1) + encoded.indices.to_numpy()
    _, first, claim_n = np.unique(codes_n, return_index=True, return_inverse=True)
    claims = batch.select(list(Claim._fields)).take(pa.array(first)).to_pylist()
    return [Claim.from_dict(claim) for claim in claims], claim_n.ravel()
