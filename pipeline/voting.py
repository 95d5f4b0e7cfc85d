"""Stage 2, actors: pixels to votes.

A *unit* is a fixed run of images of the listing, small enough to lose; it stays one block from
end to end: read and decoded by a task, voted on by an actor, committed by a task as one file.
Units are the grain of progress, of retries and of resuming.
"""

import numpy as np
import pyarrow as pa
import torch

from models.classifier import base_classifier
from models.restricted import Restricted
from models.sampling import draw_positions
from models.smoothing import SmoothedClassifier
from models.voting import ThresholdVoting
from models.zoo import load_network
from pipeline.ballots import votes_table
from pipeline.numerics import Numerics
from pipeline.resolve import Voter


class VoteOnUnit:
    """One copy of the network; decoded rows to rows of the votes dataset."""

    def __init__(self, voter: Voter, numerics: Numerics, schema: pa.Schema) -> None:
        self.classifier = build_classifier(voter, numerics)
        self.voter, self.schema = voter, schema

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Decoded rows to votes, in order, with their ``unit``."""
        decoded = decoded.combine_chunks()
        readable = np.flatnonzero(decoded["pixels"].is_valid().to_numpy())
        rows = decoded.take(pa.array(readable))
        side = self.voter.preprocess.model_px
        images = np.empty((len(readable), side, side, 3), dtype=np.uint8)
        for image, cell in zip(images, rows["pixels"], strict=True):
            image[...] = np.frombuffer(cell.as_buffer(), np.uint8).reshape(image.shape)
        views_bv = None
        if self.voter.draws is not None and len(readable):
            views_bv = np.stack(
                [
                    draw_positions(
                        image_id, self.voter.draw_seed, self.voter.draws, len(self.voter.ablation)
                    )
                    for image_id in rows["image_id"].to_pylist()
                ]
            )
        ballot = self.classifier(images, views_bv)
        table = votes_table(decoded, readable, ballot, self.schema, views_bv)
        return table.append_column("unit", decoded["unit"])


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
    classifier = base_classifier(network, voter.ablation, voter.preprocess, voter.tokens)
    return SmoothedClassifier(
        Restricted.of(classifier.to(device).eval(), voter.classes, device),
        device,
        numerics.microbatch,
        voting=None if voter.theta is None else ThresholdVoting(voter.theta),
        gaps=voter.gaps,
    )
