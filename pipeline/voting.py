"""Stage 2, actors: pixels to votes.

A *unit* is a fixed run of images of the listing, small enough to lose; it stays one block from
end to end: read and decoded by a task, voted on by an actor, committed by a task as one file.
Units are the grain of progress, of retries and of resuming.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from models.smoothing import SmoothedClassifier
from models.vit import TokenDropViT
from models.zoo import load_network
from pipeline.numerics import Numerics
from pipeline.resolve import Voter
from pipeline.schema import VOTES


class VoteOnUnit:
    """One copy of the network; decoded rows to rows of the votes dataset."""

    def __init__(self, voter: Voter, numerics: Numerics) -> None:
        self.classifier = build_classifier(voter, numerics)
        self.side = voter.preprocess.model_px

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Decoded rows to votes, in order, with their ``unit``."""
        decoded = decoded.combine_chunks()
        readable = np.flatnonzero(decoded["pixels"].is_valid().to_numpy())
        pixels = decoded["pixels"].take(pa.array(readable))
        images = np.empty((len(readable), self.side, self.side, 3), dtype=np.uint8)
        for image, cell in zip(images, pixels, strict=True):
            image[...] = np.frombuffer(cell.as_buffer(), np.uint8).reshape(image.shape)
        ballot = self.classifier(images)
        return votes_table(decoded, readable, ballot.votes_bv, ballot.plain_b).append_column(
            "unit", decoded["unit"]
        )


def build_classifier(voter: Voter, numerics: Numerics) -> SmoothedClassifier:
    """Load the network of a voter into the arithmetic of a run.

    Raises:
        UnknownModelError, WeightsError, UnsupportedModelError: As ``models`` says.
    """
    if numerics.threads:
        torch.set_num_threads(numerics.threads)
    # Kernels chosen by timing would differ between actors, and with them the last bits.
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    network = load_network(voter.model, voter.num_classes, voter.weights)
    device = torch.device(numerics.device)
    network = network.to(device=device, dtype=getattr(torch, numerics.dtype))
    classifier = TokenDropViT(network, voter.ablation, voter.preprocess).to(device).eval()
    return SmoothedClassifier(classifier, device, numerics.microbatch)


def votes_table(
    rows: pa.Table,
    readable: NDArray[np.int64],
    votes_bv: NDArray[np.int64],
    plain_b: NDArray[np.int64],
) -> pa.Table:
    """Rows of the votes dataset from a ballot.

    Args:
        rows: ``image_id``, ``label`` and ``error`` of all images, R rows.
        readable: Which of the rows were voted on, ascending; int (B,).
        votes_bv: Their votes; int (B, V).
        plain_b: Their plain predictions; int (B,).
    """
    votes: list[NDArray[np.uint16] | None] = [None] * rows.num_rows
    counts: list[list[dict[str, int]] | None] = [None] * rows.num_rows
    prediction: list[int | None] = [None] * rows.num_rows
    plain: list[int | None] = [None] * rows.num_rows
    for row, votes_v, whole in zip(readable, votes_bv, plain_b, strict=True):
        votes[row] = votes_v.astype(np.uint16)
        counts[row] = ranked = ranked_counts(votes_v)
        prediction[row] = ranked[0]["class"]
        plain[row] = int(whole)
    columns: dict[str, Any] = {
        "image_id": rows["image_id"],
        "label": rows["label"],
        "votes": pa.array(votes, VOTES.field("votes").type),
        "counts": pa.array(counts, VOTES.field("counts").type),
        "prediction": pa.array(prediction, pa.int32()),
        "plain_prediction": pa.array(plain, pa.int32()),
        "error": rows["error"],
    }
    return pa.table(columns, schema=VOTES)


def ranked_counts(votes_v: NDArray[np.int64]) -> list[dict[str, int]]:
    """Classes with their votes, most votes first, lowest class first on ties."""
    classes, votes = np.unique(votes_v, return_counts=True)
    order = np.lexsort((classes, -votes))
    return [{"class": int(classes[i]), "votes": int(votes[i])} for i in order]
