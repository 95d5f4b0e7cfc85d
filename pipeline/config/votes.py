"""Settings that decide the votes, and how they are computed."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from models.networks.systems import TokenMode, VotingName
from models.preprocess import Interpolation, PresetName
from models.views.family import ViewsKind
from pipeline.config.errors import ConfigError, at_least
from pipeline.config.flags import Advanced

# Where threads share out fewer rows, some kernels differ between places in the batch
# (tests/models/classifiers/test_bit_identity.py).
MICROBATCH_STEP = 16

Dtype = Literal["float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]
Numbering = Literal["classes", "ilsvrc2012"]
"""Meaning of the integers of a ground-truth file: class numbers, or the ILSVRC kit's own."""


def lengths_of(text: str, flag: str = "--crop") -> tuple[int, int]:
    """Numbers along y and x, written as one for both or as HEIGHTxWIDTH.

    Raises:
        ConfigError: They are written otherwise, or below 1.
    """
    lengths = text.split("x")
    if len(lengths) > 2 or not all(one.isdecimal() and int(one) for one in lengths):
        raise ConfigError(f"{flag} {text}: give one number, or HEIGHTxWIDTH such as 160x320")
    return int(lengths[0]), int(lengths[-1])


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class VotesConfig:
    """Settings that decide the votes, and how they are computed.

    Attributes:
        data: Images: WebDataset shards (dir/*.tar, shard-{000..049}.tar), Parquet files of
            encoded images (*.parquet), or a folder root/<class>/*.jpeg; a local path or s3://.
        weights: Weight file (.safetensors), local or s3://, or timm:NAME for published ones.
        model: timm name of the network; default: as the weight file says.
        num_classes: Length of the logits; default: as the weight file or the model says.
        limit: Only the first so many images.
        image_column: Parquet column of encoded images.
        label_column: Parquet column of class numbers.
        label_map: File that gives class folders, or labels as the data have them, their class
            numbers (JSON, TSV or CSV).
        ground_truth: File of labels in the order of the validation images: a number or wnid a
            line, or JSON with several labels an image (ReaL).
        numbering: What plain numbers in --ground-truth mean: classes (0-999) or ilsvrc2012
            (1-1000, the ILSVRC development kit's own).
        classes: Classes that the logits are restricted to: numbers or wnids, comma-separated, or
            a file of them.
        views: What a view shows or hides: it shows one column, row or block and hides the rest, or
            it hides one mask (mask) or up to two (mask-pair) and shows the rest [the weights'
            own, else column].
        size: Width of a band, or side of a block or mask, in pixels [the weights' own, else 19,
            or 4 on the CIFAR-10 grid; of masks what --covers and --masks need].
        stride: Distance of neighbouring offsets in pixels [the weights' own, else 1; of masks of a
            given size, that size].
        covers: The largest patch for which masks are cut, in pixels: 32, or 16x48 (height x
            width), or area:500 (any rectangle of it); a decision over them assumes no larger one.
        masks: Masks an axis, at most: 6, or 4x8 (down x across); 1x6 hides full-height bands [6].
        wrap: Let masks of a given size go on round the edges of the image.
        all_views: Ask every view of every image; without it, views that hide two masks are asked
            only as far as the decision for --covers needs them.
        positions: random:N votes on N fixed, public positions instead of every stride.
        randomized: Draw so many positions for each image (the randomized-smoothing reference;
            its certificates are probabilistic).
        seed: Which random positions.
        tokens: Hidden tokens are dropped, or enter black [the weights' own, else drop].
        voting: One vote for the largest logit, or one for every class of softmax >= theta.
        theta: Threshold of --voting threshold [0.2].
        gaps: Store the gap of the top two logits of every ablation.
        preprocess: Preset of all the options below [the weights' own, else the model's].
        resize: Shorter side in pixels before the crop, or none for images of the exact size.
        crop: Centre crop in pixels: a side, or HEIGHTxWIDTH.
        interpolation: Filter of the resize.
        pixel_scale: Enlargement after the crop, in whole pixels: the network's input is so many
            times as high and wide, and a patch lies on the pixels of the crop.
        mean: Channel means to subtract, in [0, 1].
        std: Channel deviations to divide by, in [0, 1].
        scaled_decode: Let libjpeg shrink large JPEGs as it decodes them, never below --resize:
            faster, and other pixels.
        dtype: Arithmetic [bfloat16 on CUDA, float32 on CPU].
        device: Where the network runs.
        microbatch: Sequences a forward pass, a multiple of 16 [512 on CUDA, 64 on
            CPU; of masks there as many as 16 of 224 px].
        threads: CPU threads an actor [at most 4].
        accelerator_type: Ray's name of the GPU model to vote on (L4, A100, H100, ...); needed
            where a cluster has several, since a run's votes are those of one.
        no_ray: Compute in this process, by one copy of the network: votes begin sooner, and an
            image that hangs holds the job up.
        actors: Copies of the network [one a GPU, or as many as the CPUs bear].
        unit_images: Images committed at once [a 16th of all, from 16 to 256].
        overwrite: Compute again what this very run has already written.
        wait: Wait for another job that is at the same run, rather than refuse.
        stall_minutes: Minutes without a finished unit after which what runs is given up and begun
            again; an image that hangs becomes a row with an error the third time. A unit that
            honestly takes longer needs more of them, or fewer --unit-images.
        max_error_rate: Share of images with an error above which the job fails at its end, after
            everything is written.
    """

    data: str
    weights: str
    model: str | None = None
    num_classes: Advanced[int | None] = None
    limit: int | None = None
    image_column: Advanced[str | None] = None
    label_column: Advanced[str | None] = None
    label_map: Advanced[str | None] = None
    ground_truth: Advanced[str | None] = None
    numbering: Advanced[Numbering | None] = None
    classes: str | None = None
    views: Annotated[ViewsKind | None, Parameter(name=["--views", "--ablation"])] = None
    size: int | None = None
    stride: int | None = None
    covers: str | None = None
    masks: str | None = None
    wrap: Advanced[bool] = False
    all_views: Advanced[bool] = False
    positions: Advanced[str | None] = None
    randomized: Advanced[int | None] = None
    seed: Advanced[int] = 0
    tokens: Advanced[TokenMode | None] = None
    voting: Advanced[VotingName] = "argmax"
    theta: Advanced[float | None] = None
    gaps: Advanced[bool] = False
    preprocess: Advanced[PresetName | None] = None
    resize: Advanced[str | None] = None
    crop: Advanced[str | None] = None
    interpolation: Advanced[Interpolation | None] = None
    pixel_scale: Advanced[int | None] = None
    mean: Advanced[tuple[float, float, float] | None] = None
    std: Advanced[tuple[float, float, float] | None] = None
    scaled_decode: Advanced[bool] = False
    dtype: Advanced[Dtype | None] = None
    device: Device = "auto"
    microbatch: Advanced[int | None] = None
    threads: Advanced[int | None] = None
    accelerator_type: Advanced[str | None] = None
    no_ray: Advanced[bool] = False
    actors: Advanced[int | None] = None
    unit_images: Advanced[int | None] = None
    overwrite: bool = False
    wait: Advanced[bool] = False
    stall_minutes: Advanced[float] = 60.0
    max_error_rate: Advanced[float] = 0.01

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("--data is empty: give a path, a pattern or an s3:// address")
        at_least(
            1,
            limit=self.limit,
            size=self.size,
            stride=self.stride,
            pixel_scale=self.pixel_scale,
            microbatch=self.microbatch,
            threads=self.threads,
            actors=self.actors,
            unit_images=self.unit_images,
            randomized=self.randomized,
        )
        at_least(0, seed=self.seed)
        if self.microbatch is not None and self.microbatch % MICROBATCH_STEP:
            raise ConfigError(
                f"--microbatch {self.microbatch}: it must be a multiple of {MICROBATCH_STEP}; "
                "other shapes are not known to treat every place in the batch alike"
            )
        if self.no_ray and (self.actors or 1) > 1:
            raise ConfigError(
                f"--no-ray: this process has one copy of the network, not --actors {self.actors}; "
                "leave one of them out"
            )
        if not 0 < self.stall_minutes < math.inf:
            raise ConfigError(f"--stall-minutes {self.stall_minutes}: it must be above 0")
        if not 0 <= self.max_error_rate <= 1:
            raise ConfigError(f"--max-error-rate {self.max_error_rate}: give a share from 0 to 1")
        self._check_positions()
        self._check_voting()
        at_least(2, num_classes=self.num_classes)
        if (
            self.resize is not None
            and self.resize != "none"
            and (not self.resize.isdecimal() or int(self.resize) < 1)
        ):
            raise ConfigError(f"--resize {self.resize}: give a length in pixels, or none")
        if self.crop is not None:
            lengths_of(self.crop)
        if self.masks is not None:
            lengths_of(self.masks, "--masks")

    def _check_positions(self) -> None:
        if self.positions is not None and self.random_positions is None:
            raise ConfigError(f"--positions {self.positions}: write random:N, such as random:500")
        if self.positions is not None and self.randomized is not None:
            raise ConfigError(
                "--positions is one family for all images, --randomized draws anew for each: "
                "choose one of them"
            )
        chosen = self.positions is not None or self.randomized is not None
        if chosen and self.stride not in (None, 1):
            raise ConfigError(
                f"--stride {self.stride}: random positions are drawn from every offset; leave "
                "--stride out"
            )
        if self.seed and not chosen:
            raise ConfigError(f"--seed {self.seed}: only random positions have a seed")

    def check_ablation(self, kind: str) -> None:
        """Raise ConfigError for options that only masks have."""
        for flag, given in (
            ("--covers", self.covers),
            ("--masks", self.masks),
            ("--wrap", self.wrap or None),
            ("--all-views", self.all_views or None),
        ):
            if given is not None:
                raise ConfigError(
                    f"{flag}: only views that hide masks have it, and these show a {kind}; add "
                    "--views mask-pair"
                )

    def check_masks(self, kind: str) -> None:
        """Raise ConfigError for options that masks do not have."""
        for flag, given in (
            ("--positions", self.positions),
            ("--randomized", self.randomized),
            ("--voting threshold", "given" if self.voting == "threshold" else None),
        ):
            if given is not None:
                raise ConfigError(f"{flag}: it belongs to ablations, not to --views {kind}")
        if self.size is None and (self.stride is not None or self.wrap):
            raise ConfigError(
                f"--views {kind}: --stride and --wrap place masks of a given --size; leave them "
                "out where --covers cuts the masks"
            )
        if self.size is not None and self.masks is not None:
            raise ConfigError(
                f"--masks {self.masks}: masks of a given --size are placed by --stride; leave one "
                "of them out"
            )

    def _check_voting(self) -> None:
        if self.theta is None:
            return
        if self.voting != "threshold":
            raise ConfigError(f"--theta {self.theta}: it belongs to --voting threshold")
        # Below a thousandth, sets of a thousand votes an ablation would be stored.
        if not 0.001 <= self.theta < 1:
            raise ConfigError(f"--theta {self.theta}: it must be at least 0.001 and below 1")

    @property
    def random_positions(self) -> int | None:
        """N of ``--positions random:N``."""
        kind, colon, count = (self.positions or "").partition(":")
        valid = kind == "random" and colon and count.isdecimal() and int(count) >= 1
        return int(count) if valid else None
