"""Settings of an attack and of a replay of witnesses; imports nothing heavy."""

from dataclasses import asdict, dataclass
from typing import Any

from cyclopts import Parameter

from models.views.threats import Threat
from pipeline.config import ConfigError, at_least


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Settings of an attack: the images, and the work spent on each.

    Attributes:
        run_id: The run; may be left out where --out holds one only.
        data: Present place of the run's images [where the run found them].
        weights: Present place of the run's weights [where the run found them].
        label_column: The same as in the run, if it had one.
        label_map: The same as in the run, if it had one.
        patch: Side of the square patch in pixels, or 2% or 16x48 (height x width); source:50,
            source:40x60 or source:2% to paste it into the picture as it is delivered, before the
            resize [the patch that the masks cover; of ablations the smallest square that the run
            was certified for].
        images: Images to attack: half of them certified, half right but not certified.
        steps: Gradient steps for each patch.
        locations: Locations on each image: the exact rule's worst; every fourth is random.
        restarts: Patches at each location, each from other first pixels; every second one pushes
            the second strongest rival.
        views: Views asked in one step; where more show the patch, a new sample for each step.
        seed: Decides the images, locations and first pixels.
    """

    run_id: str | None = None
    data: str | None = None
    weights: str | None = None
    label_column: str | None = None
    label_map: str | None = None
    patch: int | str | None = None
    images: int = 50
    steps: int = 20
    locations: int = 4
    restarts: int = 2
    views: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        _ = self.threat  # fails where a text means nothing
        at_least(
            1,
            images=self.images,
            steps=self.steps,
            locations=self.locations,
            restarts=self.restarts,
            views=self.views,
        )
        at_least(0, seed=self.seed)

    @property
    def threat(self) -> Threat | None:
        """The threat that ``patch`` names; None where it was left out.

        Raises:
            ConfigError: The text means nothing, or not one rectangle of a given shape.
        """
        return _one_rectangle(self.patch)

    def settings(self) -> dict[str, Any]:
        """Return all that decides the patches, except the run, as plain JSON."""
        names = ("images", "steps", "locations", "restarts", "views", "seed")
        return {name: value for name, value in asdict(self).items() if name in names}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WitnessConfig:
    """Settings of a replay: the votes to rewrite.

    Attributes:
        run_id: The run; may be left out where --out holds one only.
        patch: Side of the square patch in pixels, or 2% or 16x48 (height x width) [the patch that
            the masks cover; of ablations the smallest square that the run was certified for].
    """

    run_id: str | None = None
    patch: int | str | None = None

    def __post_init__(self) -> None:
        _ = self.threat  # fails where a text means nothing

    @property
    def threat(self) -> Threat | None:
        """The threat that ``patch`` names; None where it was left out.

        Raises:
            ConfigError: The text means nothing, or not one rectangle of the grid.
        """
        threat = _one_rectangle(self.patch)
        if threat is not None and threat.source:
            raise ConfigError(
                f"--patch {threat}: which votes it touches depends on the size of each picture, "
                "and only votes are rewritten; give a patch on the grid, such as 32, or try this "
                "one with `patchcert attack`"
            )
        return threat


def _one_rectangle(patch: int | str | None) -> Threat | None:
    """The threat that a patch names; None where it was left out.

    Raises:
        ConfigError: The text means nothing, or not one rectangle of a given shape.
    """
    if patch is None:
        return None
    if isinstance(patch, int):
        at_least(1, patch=patch)
    try:
        threat = Threat.parse(patch)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    if threat.count > 1 or threat.area is not None:
        raise ConfigError(
            f"--patch {threat}: one rectangle of a given shape is tried at a time; give one, such "
            "as 32 or 16x48"
        )
    return threat
