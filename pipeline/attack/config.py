"""Settings of an attack and of a replay of witnesses; imports nothing heavy."""

from dataclasses import asdict, dataclass
from typing import Any

from cyclopts import Parameter

from pipeline.config import at_least


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
        patch: Side of the square patch in pixels [the smallest that the run was certified for].
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
    patch: int | None = None
    images: int = 50
    steps: int = 20
    locations: int = 4
    restarts: int = 2
    views: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(
            1,
            patch=self.patch,
            images=self.images,
            steps=self.steps,
            locations=self.locations,
            restarts=self.restarts,
            views=self.views,
        )
        at_least(0, seed=self.seed)

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
        patch: Side of the square patch in pixels [the smallest that the run was certified for].
    """

    run_id: str | None = None
    patch: int | None = None

    def __post_init__(self) -> None:
        at_least(1, patch=self.patch)
