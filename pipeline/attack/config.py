"""What an attack and a replay of witnesses are asked for; imports nothing heavy."""

from dataclasses import asdict, dataclass
from typing import Any

from cyclopts import Parameter

from pipeline.config import at_least


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """What to attack, and how hard.

    Attributes:
        run_id: Which run; may be left out where --out holds one only.
        data: The run's images, where they lie now [where the run found them].
        weights: The run's weights, where they lie now [where the run found them].
        label_column: As the run was given, if it was.
        label_map: As the run was given, if it was.
        patch: Side of the square patch in pixels [the smallest that the run was certified for].
        images: Images to attack: half of them certified, half right but not certified.
        steps: Gradient steps for each patch.
        locations: Places on each image: the exact rule's worst, and every fourth at random.
        restarts: Patches at each place, from other first pixels, the odd ones for the second
            strongest rival.
        views: Ablations asked in one step; where more see the patch, so many drawn anew.
        seed: Which images, places and first pixels.
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
        """What decides the patches, beside the run, as plain JSON."""
        names = ("images", "steps", "locations", "restarts", "views", "seed")
        return {name: value for name, value in asdict(self).items() if name in names}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WitnessConfig:
    """Which votes to rewrite.

    Attributes:
        run_id: Which run; may be left out where --out holds one only.
        patch: Side of the square patch in pixels [the smallest that the run was certified for].
    """

    run_id: str | None = None
    patch: int | None = None

    def __post_init__(self) -> None:
        at_least(1, patch=self.patch)
