"""Run a finished run's model again: on its images, and on attacked ones.

Votes on attacked images go the whole way of a run: listed, decoded, voted on by Ray actors,
committed, read. Logits, which a run does not keep, are computed here by the same classifier at the
same microbatch.

Attacked images are written without loss. Where the patch is one on the source picture, they are
the whole pictures, and the preprocessing is the run's own. Else they are written on the attacker's
grid, and the preprocessing is the run's own without its resize and crop (``--resize none``).

Shapes: N images of the run, R images to vote on, V views, S sequences, H x W pixels of the grid.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.classifiers.base import BaseClassifier
from models.classifiers.smoothed import SmoothedClassifier
from models.errors import JobError
from models.networks.weights import sha256_of
from models.preprocess import Preprocess
from pipeline.attack.config import AttackConfig
from pipeline.cluster.executor import Executor
from pipeline.config import ConfigError, OutputConfig, VotesConfig
from pipeline.runs.defense import Defense
from pipeline.runs.manifest import Manifest, flatten
from pipeline.runs.numerics import Numerics, probe_machine, resolve_numerics
from pipeline.runs.resolve import hub_or_path
from pipeline.runs.store import VotesStore
from pipeline.runs.weight_files import check_rebuildable, local_weights
from pipeline.sources.base import SourceOptions
from pipeline.sources.listing import list_images
from pipeline.storage.tables import parquet_writer
from pipeline.voting.decode import DecodeUnit
from pipeline.voting.plan import count_votes

ATTACKED = pa.schema(
    [
        # PNG: the picture, or its grid where the patch is one on the grid.
        pa.field("image", pa.binary(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        # Upper left corner of the patch; null for the unpatched copy of the image.
        pa.field("y", pa.int32()),
        pa.field("x", pa.int32()),
    ]
)
"""Images to vote on: every attacked image, its copy without a patch first."""

# Rows written at a time, and decoded by the check, to bound memory.
_ROWS = 64
# Images whose logits are computed at once.
_IMAGES = 32


class RoundTripError(JobError):
    """Written images do not come back as the pixels that were meant."""


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """A finished run's classifier, able to vote again.

    Attributes:
        defense: The run's network and views, and the preprocessing of the images to vote on.
        numerics: The run's arithmetic, which is this machine's.
    """

    defense: Defense
    numerics: Numerics


def load_rerun(manifest: Manifest, config: AttackConfig) -> Rerun:
    """Load the run's defense and arithmetic, if this machine can compute the same bits.

    Raises:
        ConfigError: The votes were imported, the weights are others, or this machine computes
            other bits.
        WeightsError: The weights are missing.
    """
    if manifest.imported:
        raise ConfigError(
            f"run_id={manifest.run_id} was imported: its votes were cast elsewhere, and without "
            "the weights and the images nothing can be voted on again; attack a run of "
            "`patchcert run`, or rewrite these votes with `patchcert witness`"
        )
    check_rebuildable(manifest.execution.weights or "")
    weights = hub_or_path(config.weights or manifest.execution.weights or "")
    voted = manifest.defense.network.weights_sha256
    found = sha256_of(local_weights(weights))
    if voted != found:
        raise ConfigError(
            f"--weights {weights}: their sha256 is {found[:12]}, the run voted with {voted[:12]}; "
            "give the run's own file"
        )
    _check_machine(manifest.numerics, weights)
    network = replace(manifest.defense.network, weights=weights)
    return Rerun(defense=replace(manifest.defense, network=network), numerics=manifest.numerics)


def on_the_grid(preprocess: Preprocess) -> Preprocess:
    """Return the same preprocessing for images that are on the attacker's grid already."""
    return replace(preprocess, resize=None, scaled_decode=False)


def model_input(pixels: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Enlarge images (R, H, W, 3) to the model's input, each pixel to ``scale`` x ``scale``."""
    return np.ascontiguousarray(pixels.repeat(scale, axis=1).repeat(scale, axis=2))


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels (H, W, 3) as a PNG."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def write_source(
    path: str,
    image_ids: list[str],
    corners: list[tuple[int, int] | None],
    pixels: Iterable[NDArray[np.uint8]],
) -> None:
    """Write images as Parquet of PNGs.

    Args:
        path: The file to write (.parquet).
        image_ids: The run's image behind each; R of them.
        corners: Upper left corner (y, x) of each patch; None where there is none.
        pixels: The images, uint8 (H, W, 3) each; those of a picture are as large as it.
    """
    rows = (
        {"image": encode(image), "image_id": image_id, "y": y, "x": x}
        for image, image_id, (y, x) in zip(
            pixels, image_ids, (corner or (None, None) for corner in corners), strict=True
        )
    )
    with parquet_writer(path, ATTACKED) as writer:
        # One row group a part: a group is read as a whole, whichever of its rows are wanted.
        while part := list(islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(part, ATTACKED))


def check_round_trip(path: str, preprocess: Preprocess, pixels: NDArray[np.uint8]) -> None:
    """Read a source as a run does, and compare the model input with the pixels that were meant.

    Args:
        path: The file of ``write_source``.
        preprocess: What makes model input of them.
        pixels: The grids that are meant; uint8 (R, H, W, 3).

    Raises:
        RoundTripError: A pixel differs, or an image cannot be decoded.
    """
    options = SourceOptions(image_column="image")
    rows = list_images(path, options, None).table
    decode = DecodeUnit(options, preprocess)
    rows = rows.append_column("unit", pa.nulls(rows.num_rows, pa.int64()))
    for start in range(0, rows.num_rows, _ROWS):
        meant = pixels[start : start + _ROWS]
        enlarged = model_input(meant, preprocess.pixel_scale)
        decoded = decode(rows.slice(start, _ROWS))
        for index, cell in enumerate(decoded["pixels"].to_pylist()):
            if cell != enlarged[index].tobytes():
                raise RoundTripError(
                    f"{path}: row {start + index} is decoded to other pixels than were written "
                    f"({decoded['error'][index]}); please report it with this file"
                )


def vote_again(data: str, out: str, rerun: Rerun, executor: Executor) -> pa.Table:
    """Vote on attacked images, as a run under ``out``; return its rows, in the order of ``data``.

    Images with an error are among them: to have one in place of an answer is what an attacker may
    want.

    Raises:
        ConfigError, SourceError: The images cannot be listed.
        JobError, StoreError: The run failed.
    """
    request = _request(rerun.numerics, data, rerun.defense.network.weights)
    outcome = count_votes(request, rerun.defense, OutputConfig(out=out), executor)
    return pa.concat_tables(VotesStore(out, outcome.run_id).read())


def logit_digests(smoothed: SmoothedClassifier, pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Digest the bits of the logits of each image and view; (R, V).

    Args:
        smoothed: The classifier, in the run's arithmetic.
        pixels: Images on the attacker's grid; uint8 (R, H, W, 3).
    """
    views = smoothed.classifier.views
    digests = np.empty((len(pixels), len(views)), np.uint64)
    for start in range(0, len(pixels), _IMAGES):
        part = slice(start, start + _IMAGES)
        digesting = _Digesting(smoothed.classifier, digests[part])
        again = SmoothedClassifier(digesting, smoothed.device, smoothed.microbatch)
        again(model_input(pixels[part], views.pixel_scale))
    return digests


class _Digesting:
    """A base classifier that keeps a digest of the logits of each image and view."""

    def __init__(self, classifier: BaseClassifier, digests_rv: NDArray[np.uint64]) -> None:
        self.classifier, self.views = classifier, classifier.views
        self.digests_rv = digests_rv

    def groups(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        return self.classifier.groups()

    def tokens(self, images_bhwc: Tensor) -> Tensor:
        return self.classifier.tokens(images_bhwc)

    def whole(self, tokens_bn: Tensor, image_s: Tensor) -> Tensor:
        return self.classifier.whole(tokens_bn, image_s)

    def __call__(self, tokens_bn: Tensor, image_s: Tensor, view_s: Tensor) -> Tensor:
        logits = self.classifier(tokens_bn, image_s, view_s)
        # bfloat16, which numpy lacks, is part of float32 without loss.
        rows = logits.float().cpu().numpy()
        for image, view, row in zip(image_s.tolist(), view_s.tolist(), rows, strict=True):
            digest = hashlib.blake2b(row.tobytes(), digest_size=8).digest()
            self.digests_rv[image, view] = int.from_bytes(digest, "little")
        return logits


def _request(numerics: Numerics, data: str, weights: str) -> VotesConfig:
    """Ask for votes on other images, with the run's arithmetic."""
    return VotesConfig(
        data=data,
        weights=weights,
        image_column="image",
        dtype=numerics.dtype,  # type: ignore[arg-type]  # taken from a VotesConfig
        device=numerics.device,  # type: ignore[arg-type]
        microbatch=numerics.microbatch,
        threads=numerics.threads or None,
        overwrite=True,
    )


def _check_machine(numerics: Numerics, weights: str) -> None:
    """Raise ConfigError unless this machine computes the bits that the run did."""
    here = resolve_numerics(
        _request(numerics, "-", weights),
        probe_machine("cuda" if numerics.device == "cuda" else "cpu"),
    )
    ours, theirs = flatten(here.to_dict()), flatten(numerics.to_dict())
    differing = [
        f"{name} is {ours.get(name)} here and was {theirs.get(name)}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if differing:
        raise ConfigError(
            f"this machine does not compute the run's bits: {'; '.join(differing)}. Attack it "
            "where it was voted on, or vote again here and attack that run"
        )
