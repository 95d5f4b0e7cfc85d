"""What a user may ask of a sweep: some options of ``run`` take several values, all others one.

Imports neither torch nor ray, like ``pipeline.config``, of which nothing is repeated here.
"""

from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from models.ablation import AblationKind
from models.systems import TokenMode, VotingName
from pipeline.config import ConfigError, Dtype, VotesConfig
from pipeline.config.flags import Advanced


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Axes:
    """What varies: one or several values each; every combination is a point.

    Attributes:
        weights: Weight files (.safetensors), local or s3://, or timm:NAME for published ones.
        ablation: Shapes of what an ablation shows [the weights' own, else column].
        size: Widths of a band, or sides of a block, in pixels [the weights' own, else 19, or 4 on
            the CIFAR-10 grid].
        stride: Distances of neighbouring offsets in pixels; one that is a multiple of another is
            answered from the other's votes [the weights' own, else 1].
        tokens: Hidden tokens are dropped, or enter black [the weights' own, else drop].
        voting: One vote for the largest logit, or one for every class of softmax >= theta.
        dtype: Arithmetic [bfloat16 on CUDA, float32 on CPU].
    """

    weights: tuple[str, ...]
    ablation: tuple[AblationKind, ...] | None = None
    size: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    tokens: Advanced[tuple[TokenMode, ...] | None] = None
    voting: Advanced[tuple[VotingName, ...] | None] = None
    dtype: Advanced[tuple[Dtype, ...] | None] = None

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if values is not None and not values:
                raise ConfigError(f"--{name} is empty: give one or more values, or leave it out")

    @property
    def varying(self) -> list[str]:
        """Names of what has several values."""
        return [name for name, values in vars(self).items() if len(set(values or ())) > 1]


NAMES = tuple(axis.name for axis in fields(Axes))
"""Options of ``run`` that a sweep varies."""

if TYPE_CHECKING:

    class FixedConfig:
        """Everything else that decides the votes; as in ``VotesConfig``."""

else:
    FixedConfig = make_dataclass(
        "FixedConfig",
        [
            (one.name, one.type)
            if one.default is MISSING
            else (one.name, one.type, field(default=one.default))
            for one in fields(VotesConfig)
            if one.name not in NAMES
        ],
        frozen=True,
        kw_only=True,
    )
    # The command line is made of both.
    FixedConfig.__module__ = __name__
    FixedConfig.__doc__ = VotesConfig.__doc__
    Parameter(name="*")(FixedConfig)


def configs_of(axes: Axes, fixed: FixedConfig) -> list[VotesConfig]:
    """A request for each combination, in the order given, none twice.

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
        try:
            configs.append(VotesConfig(**chosen))
        except ConfigError as error:
            point = " ".join(f"{name}={value}" for name, value in zip(given, values, strict=True))
            raise ConfigError(f"sweep at {point}: {error}") from error
    return configs
