"""Stage 2, actors: pixels to votes.

A *unit* is a fixed run of images of the listing, small enough to lose; it stays one block from
end to end: read and decoded by a task, voted on by an actor, committed by a task as one file.
Units are the grain of progress, of retries and of resuming.
"""

import copy
import platform
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from models.classifiers.bits import find_leak
from models.classifiers.build import ClassSubset, base_classifier
from models.classifiers.determinism import exact_products
from models.classifiers.smoothed import SmoothedClassifier
from models.classifiers.votes import ThresholdVoting
from models.errors import JobError
from models.networks.weights import sha256_of
from models.networks.zoo import load_network
from models.views.family import IntArray
from models.views.masks import Masks
from models.views.sampling import draw_positions
from pipeline.certificates.early_exit import EarlyExit
from pipeline.runs.defense import Defense, Network
from pipeline.runs.numerics import Numerics, pin_mkl, probe_machine
from pipeline.runs.rows import votes_table
from pipeline.runs.weight_files import local_weights
from pipeline.voting.commit import addressed

_NOT_FINITE = "the network's logits are not finite (NaN or infinity), so that it has no vote"


class VoteOnUnit:
    """One copy of the network; decoded rows to rows of the votes dataset."""

    def __init__(self, defense: Defense, numerics: Numerics, schema: pa.Schema) -> None:
        check_worker(defense, numerics)
        self.classifier = build_classifier(defense, numerics)
        check_bits(self.classifier)
        self.defense, self.schema = defense, schema
        self.asking = None
        if defense.voting.early_exit:
            assert isinstance(defense.views, Masks), "resolve asks for early exit of no others"
            self.asking = EarlyExit(defense.views)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Decoded rows to votes, in order, addressed to their unit."""
        start = time.monotonic()
        decoded = decoded.combine_chunks()
        readable = np.flatnonzero(decoded["pixels"].is_valid().to_numpy())
        rows = decoded.take(pa.array(readable))
        images = np.empty((len(readable), *self.defense.model_input.model_px, 3), dtype=np.uint8)
        for image, cell in zip(images, rows["pixels"], strict=True):
            image[...] = np.frombuffer(cell.as_buffer(), np.uint8).reshape(image.shape)
        views_bv = None
        if self.defense.voting.draws is not None and len(readable):
            views_bv = np.stack(
                [
                    draw_positions(
                        image_id,
                        self.defense.voting.draw_seed,
                        self.defense.voting.draws,
                        len(self.defense.views),
                    )
                    for image_id in rows["image_id"].to_pylist()
                ]
            )
        try:
            ballot = (
                self.classifier(images, views_bv)
                if self.asking is None
                else self.classifier.ask(images, self.asking)
            )
        except torch.OutOfMemoryError as error:
            raise WorkerError(
                f"the GPU of {platform.node()} has no memory for a microbatch ({error}): vote with "
                "a smaller --microbatch, which is another run, or with nothing else on it"
            ) from error
        if ballot.finite_b is not None:
            decoded = _with_error(decoded, readable[~ballot.finite_b], _NOT_FINITE)
            views_bv = None if views_bv is None else views_bv[ballot.finite_b]
            readable, ballot = readable[ballot.finite_b], ballot.of_finite()
        lowest = min(self.defense.network.classes or (0,))
        table = votes_table(
            decoded, readable, ballot, self.schema, views_bv=views_bv, lowest_class=lowest
        )
        return addressed(table, decoded, time.monotonic() - start)

    def failed(self, decoded: pa.Table, reason: str) -> pa.Table:
        """Rows of images that cannot be handled, for one reason."""
        return self(_with_error(decoded, np.arange(decoded.num_rows), reason))


def _with_error(decoded: pa.Table, lost: IntArray, reason: str) -> pa.Table:
    """Decoded rows of which those numbered ``lost`` have an error, and so no pixels."""
    gone = np.zeros(decoded.num_rows, dtype=bool)
    gone[lost] = True
    for name, cell in (("error", reason), ("pixels", None)):
        place = decoded.schema.get_field_index(name)
        column = pc.if_else(gone, pa.scalar(cell, decoded[name].type), decoded[name])
        decoded = decoded.set_column(place, decoded.schema.field(place), column)
    return decoded


class WorkerError(JobError):
    """A worker would cast other votes than the run's identity says, or none."""


def check_worker(defense: Defense, numerics: Numerics) -> None:
    """Hold the worker's weights, device and libraries against the run's identity.

    Raises:
        WorkerError: One of them differs, named.
    """
    here = probe_machine("cuda" if numerics.device == "cuda" else "cpu")
    for name, ours, theirs in (
        ("device model", here.device_model, numerics.device_model),
        ("library versions", here.versions, numerics.versions),
        ("weights sha256", _found_sha256(defense.network), defense.network.weights_sha256),
    ):
        if ours != theirs:
            raise WorkerError(
                f"{name} on worker {platform.node()}: {ours}, but the run has {theirs}; its votes "
                "would not be this run's. Use equal nodes (of GPUs: --accelerator-type), or run "
                "again with what is there"
            )


def check_bits(classifier: SmoothedClassifier, *, thorough: bool = False) -> None:
    """Look whether this worker computes what the certificate assumes of logits.

    Raises:
        WorkerError: A slot or a neighbour changes them; with the place and the remedy.
    """
    leak = find_leak(classifier, thorough=thorough)
    if leak is not None:
        raise WorkerError(
            f"on worker {platform.node()} {leak}: a patch could reach views that do not show it, "
            "so that nothing could be certified. Vote with --dtype float32, another --microbatch "
            "or other versions of torch and its libraries; patchcert doctor --bits tells which "
            "are sound. In a program of your own set MKL_CBWR=AUTO before it begins"
        )


def _found_sha256(network: Network) -> str:
    """Digest of the weights that this worker reads; a module in memory has been digested."""
    if network.module is not None:
        return network.weights_sha256
    return sha256_of(local_weights(network.weights))


def build_classifier(defense: Defense, numerics: Numerics) -> SmoothedClassifier:
    """Load the network of a defense into the arithmetic of a run.

    Raises:
        UnknownModelError, WeightsError, UnsupportedModelError: As ``models`` says.
    """
    pin_mkl()
    if numerics.threads:
        torch.set_num_threads(numerics.threads)
    # Kernels chosen by timing would differ between actors, and with them the last bits.
    torch.backends.cudnn.benchmark = False
    exact_products()
    network = _network(defense)
    device = torch.device(numerics.device)
    network = network.to(device=device, dtype=getattr(torch, numerics.dtype))
    classifier = base_classifier(network, defense.views, defense.model_input, defense.tokens)
    return SmoothedClassifier(
        ClassSubset.of(classifier.to(device).eval().pack(), defense.network.classes, device),
        device,
        numerics.microbatch,
        voting=None if defense.voting.theta is None else ThresholdVoting(defense.voting.theta),
        gaps=defense.voting.gaps,
    )


def _network(defense: Defense) -> nn.Module:
    """The network: from its file, or a copy of the program's own module."""
    given = defense.network
    if given.module is not None:
        # Once adopted it may be asked for in another type again.
        return copy.deepcopy(given.module)
    weights = local_weights(given.weights)
    return load_network(given.name, given.num_classes, weights, defense.model_input.model_px)
