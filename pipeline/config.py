"""What a user may ask for: frozen, self-validating, the source of every flag and YAML key.

The command line and the YAML file are derived from these classes by cyclopts; nothing is
mirrored by hand. None of this imports torch, ray or mlflow. A field that is None is filled in by
``pipeline.resolve`` from the weight file's header, the preset, or the paper's settings.
"""

from dataclasses import dataclass
from typing import Literal

from models.ablation import AblationKind
from models.preprocess import Interpolation, PresetName

Dtype = Literal["float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]
RuleName = Literal["exact", "uniform"]
Tokens = Literal["drop"]


class ConfigError(ValueError):
    """A request that cannot be met as asked: message names the flag, the rule, the remedy."""


def _at_least(minimum: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < minimum:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} {value}: it must be at least {minimum}")


@dataclass(frozen=True, kw_only=True)
class VotesConfig:
    """Everything that decides the votes, and how they are computed.

    Attributes:
        data: Images: WebDataset shards (dir/*.tar, shard-{000..049}.tar), Parquet files of
            encoded images (*.parquet), or a folder root/<class>/*.jpeg; a local path or s3://.
        weights: Weight file (.safetensors).
        model: timm name of the network; default: as the weight file says.
        num_classes: Length of the logits; default: as the weight file or the model says.
        limit: Only the first so many images.
        image_column: Parquet column of encoded images.
        label_column: Parquet column of class numbers.
        label_map: File that gives class folders their numbers (JSON, TSV or CSV).
        ablation: Shape of what an ablation shows.
        size: Width of a band in pixels [the weights' own, else 19].
        stride: Distance of neighbouring bands in pixels [1].
        tokens: What happens to tokens without a visible pixel.
        preprocess: Preset of all the options below [the weights' own, else the model's].
        resize: Shorter side in pixels before the crop, or none for images of the exact size.
        crop: Side of the centre crop in pixels.
        interpolation: Filter of the resize.
        mean: Channel means to subtract, in [0, 1].
        std: Channel deviations to divide by, in [0, 1].
        dtype: Arithmetic [bfloat16 on CUDA, float32 on CPU].
        device: Where the network runs.
        microbatch: Sequences a forward pass [128 on CPU, 512 on CUDA].
        threads: CPU threads an actor [at most 4].
        actors: Copies of the network [one a GPU, or as many as the CPUs bear].
        unit_images: Images committed at once [a 16th of all, from 16 to 256].
        overwrite: Compute again what this very run has already written.
    """

    data: str
    weights: str
    model: str | None = None
    num_classes: int | None = None
    limit: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    label_map: str | None = None
    ablation: AblationKind = "column"
    size: int | None = None
    stride: int | None = None
    tokens: Tokens = "drop"
    preprocess: PresetName | None = None
    resize: str | None = None
    crop: int | None = None
    interpolation: Interpolation | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    dtype: Dtype | None = None
    device: Device = "auto"
    microbatch: int | None = None
    threads: int | None = None
    actors: int | None = None
    unit_images: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("--data is empty: give a path, a pattern or an s3:// address")
        _at_least(
            1,
            limit=self.limit,
            size=self.size,
            stride=self.stride,
            crop=self.crop,
            microbatch=self.microbatch,
            threads=self.threads,
            actors=self.actors,
            unit_images=self.unit_images,
        )
        _at_least(2, num_classes=self.num_classes)
        if (
            self.resize is not None
            and self.resize != "none"
            and (not self.resize.isdecimal() or int(self.resize) < 1)
        ):
            raise ConfigError(f"--resize {self.resize}: give a length in pixels, or none")


@dataclass(frozen=True, kw_only=True)
class ClaimsConfig:
    """What to certify from votes, and where to log it.

    Attributes:
        patch: Sides of square patches in pixels [23 32 39, or 2 4 5 on the CIFAR-10 grid].
        rule: Certificates to compute.
        mlflow: Tracking server; default: an sqlite file in --out; none logs nothing.
        experiment: MLflow experiment.
    """

    patch: tuple[int, ...] | None = None
    rule: tuple[RuleName, ...] = ("exact", "uniform")
    mlflow: str | None = None
    experiment: str = "patchcert"

    def __post_init__(self) -> None:
        if self.patch is not None and not self.patch:
            raise ConfigError("--patch is empty: give one or more sides in pixels")
        for side in self.patch or ():
            _at_least(1, patch=side)
        if not self.rule:
            raise ConfigError("--rule is empty: choose exact, uniform or both")


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Where results lie and how they are printed.

    Attributes:
        out: Folder of all results, local or s3://.
        json: Print the summary as JSON instead of a table.
        verbose: Show Ray's own log.
    """

    out: str = "out"
    json: bool = False
    verbose: bool = False
