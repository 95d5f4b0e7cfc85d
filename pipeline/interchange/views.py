"""Whether a matrix of votes can be that of an ablation, and of which one it could be."""

from dataclasses import replace

from models.ablation import Ablation
from pipeline.config import ConfigError


def check_views(path: str, views: int, ablation: Ablation) -> None:
    """Raise ConfigError unless there is one vote for each ablation, saying what would fit."""
    if views == len(ablation):
        return
    limit = {"column": ablation.width, "row": ablation.height}.get(
        ablation.kind, min(ablation.height, ablation.width)
    )
    fixed = replace(ablation, random=None, seed=0)
    fitting = [
        stride for stride in range(1, limit + 1) if len(replace(fixed, stride=stride)) == views
    ]
    remedy = "give the --ablation, --stride and --image-size that voted"
    if fitting:
        remedy = f"{views} would be --stride {fitting[0]}"
        if len(fitting) > 1:
            remedy += f" to {fitting[-1]}, of which only its owner knows the right one"
    of = f"{ablation.random} random" if ablation.random else f"stride {ablation.stride}"
    raise ConfigError(
        f"{path}: {views} votes an image, and {ablation.kind} ablations of a "
        f"{ablation.height}x{ablation.width} px image at {of} positions are {len(ablation)}; "
        + remedy
    )
