"""What a sweep would do, counted rather than done."""

from collections.abc import Sequence
from typing import Any

from pipeline.preflight.estimate import images_done
from pipeline.store import VotesStore
from pipeline.sweep.grid import Answer
from pipeline.tracking import run_name


def forecast(found: Sequence[Answer], out: str) -> list[dict[str, Any]]:
    """For each point its name, whose votes answer it, and the sequences still to compute.

    Raises:
        ManifestError: A run is there and contradicts its id.
    """
    plan = []
    for answer in found:
        wanted, own = answer.point.wanted, answer.stride is None
        images = int(wanted.execution["images"])
        done = images
        if own and not answer.there:
            overwrite = answer.point.config.overwrite
            done = 0 if overwrite else images_done(VotesStore(out, answer.run_id), images)
        plan.append(
            {
                "point": run_name(wanted),
                "run_id": answer.run_id,
                "own_votes": own,
                "images": images,
                "images_there": done if own else None,
                # The whole image is classified too.
                "sequences": (images - done) * (wanted.votes_per_image + 1),
            }
        )
    return plan


def lines(plan: Sequence[dict[str, Any]]) -> list[str]:
    """What a person reads."""
    said = []
    for one in plan:
        if not one["own_votes"]:
            what = f"no pass of its own: answered by the votes of {one['run_id']}"
        elif one["sequences"]:
            what = (
                f"{one['sequences']:,} sequences to compute, {one['images_there']:,} of "
                f"{one['images']:,} images are there"
            )
        else:
            what = f"all {one['images']:,} images are there"
        said.append(f"{one['point']}: {what}")
    total = sum(one["sequences"] for one in plan)
    return [*said, f"{len(plan)} points, {total:,} sequences in all; nothing was computed"]
