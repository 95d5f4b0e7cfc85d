"""Options of a sweep: some options of ``run`` take several values, all others one.

Imports neither torch nor ray, like ``pipeline.config``.
"""

from dataclasses import dataclass, fields
from itertools import product
from typing import Annotated, Any

from cyclopts import Parameter

from models.networks.systems import TokenMode, VotingName
from models.preprocess import Interpolation, PresetName
from models.views.family import ViewsKind
from pipeline.config import ConfigError, Device, Dtype, VotesConfig
from pipeline.config.flags import Advanced
from pipeline.config.votes import Numbering


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Axes:
    """Options with one or several values; the sweep runs every combination.

    Attributes:
        weights: Weight files (.safetensors), local or s3://, or timm:NAME for published ones.
        views: What a view shows or hides: column, row, block, mask, mask-pair [the weights' own,
            else column].
        size: Widths of a band, or sides of a block, in pixels [the weights' own, else 19, or 4 on
            the CIFAR-10 grid].
        stride: Distances of neighbouring offsets in pixels; one that is a multiple of another is
            answered from the other's votes [the weights' own, else 1].
        covers: The largest patches for which masks are cut, in pixels.
        masks: Masks an axis, at most [6].
        tokens: Hidden tokens are dropped, or enter black [the weights' own, else drop].
        voting: One vote for the largest logit, or one for every class of softmax >= theta.
        dtype: Arithmetic [bfloat16 on CUDA, float32 on CPU].
    """

    weights: tuple[str, ...]
    views: Annotated[tuple[ViewsKind, ...] | None, Parameter(name=["--views", "--ablation"])] = None
    size: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    covers: Advanced[tuple[str, ...] | None] = None
    masks: Advanced[tuple[str, ...] | None] = None
    tokens: Advanced[tuple[TokenMode, ...] | None] = None
    voting: Advanced[tuple[VotingName, ...] | None] = None
    dtype: Advanced[tuple[Dtype, ...] | None] = None

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if values is not None and not values:
                raise ConfigError(f"--{name} is empty: give one or more values, or leave it out")

    @property
    def varying(self) -> list[str]:
        """Names of the options with several values."""
        return [name for name, values in vars(self).items() if len(set(values or ())) > 1]


NAMES = tuple(axis.name for axis in fields(Axes))
"""Options of ``run`` that a sweep varies."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FixedConfig:
    """Everything else that decides the votes: ``VotesConfig`` without the axes."""

    data: str
    model: str | None = None
    num_classes: Advanced[int | None] = None
    limit: int | None = None
    image_column: Advanced[str | None] = None
    label_column: Advanced[str | None] = None
    label_map: Advanced[str | None] = None
    ground_truth: Advanced[str | None] = None
    numbering: Advanced[Numbering | None] = None
    classes: str | None = None
    positions: Advanced[str | None] = None
    randomized: Advanced[int | None] = None
    seed: Advanced[int] = 0
    wrap: Advanced[bool] = False
    all_views: Advanced[bool] = False
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


FixedConfig.__doc__ = VotesConfig.__doc__  # The help of the flags is made of it.


def configs_of(axes: Axes, fixed: FixedConfig) -> list[VotesConfig]:
    """Return a request for each combination, in the order given, none twice.

    Raises:
        ConfigError: A combination contradicts itself.
    """
    given: dict[str, tuple[Any, ...]] = {
        name: tuple(dict.fromkeys(values))
        for name, values in vars(axes).items()
        if values is not None
    }
    configs = []
    for values in product(*given.values()):
        chosen = {**vars(fixed), **dict(zip(given, values, strict=True))}
        if chosen.get("voting", "argmax") != "threshold" and "threshold" in (axes.voting or ()):
            chosen["theta"] = None  # it belongs to the others
        chosen |= dict.fromkeys(_of_others(axes, chosen.get("views")))
        try:
            configs.append(VotesConfig(**chosen))
        except ConfigError as error:
            point = " ".join(f"{name}={value}" for name, value in zip(given, values, strict=True))
            raise ConfigError(f"sweep at {point}: {error}") from error
    return list(dict.fromkeys(configs))


def _of_others(axes: Axes, views: ViewsKind | None) -> tuple[str, ...]:
    """Name the options that belong to views of the other sort, where a sweep has both."""
    masks = {"mask", "mask-pair"} & set(axes.views or ())
    if not masks or masks == set(axes.views or ()):
        return ()
    if views not in masks:
        return "covers", "masks"
    return () if axes.covers is None else ("size", "stride")
