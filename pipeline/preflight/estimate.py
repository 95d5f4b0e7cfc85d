"""The work of a votes job, counted rather than done."""

from dataclasses import dataclass

from pipeline.config import EstimateConfig
from pipeline.voting.plan import VotesPlan


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Size and price of a votes job.

    Attributes:
        run_id: The run it would be.
        images: Images of the run.
        done: Images whose votes are there already, which a resume skips.
        views: Ablations of an image.
        sequences: Forward passes still to do: the views and the whole image, of each image.
        actor_hours: Hours of one actor (one GPU, on CUDA); None where its speed is not known.
        cost: At the given price; None where it is not known.
    """

    run_id: str
    images: int
    done: int
    views: int
    sequences: int
    actor_hours: float | None
    cost: float | None

    def lines(self) -> list[str]:
        """Lines for a person to read."""
        left = self.images - self.done
        said = [
            f"images:        {self.images:,}",
            f"there already: {self.done:,} (a resume skips them)",
            f"to compute:    {left:,} images x ({self.views:,} views + 1 whole) = "
            f"{self.sequences:,} sequences",
        ]
        if self.actor_hours is None:
            said.append("hours, cost:   give --images-per-second (of one GPU) and --price-per-hour")
        else:
            said.append(f"actor hours:   {self.actor_hours:,.2f} (of GPUs, if it has one)")
        if self.cost is not None:
            said.append(f"cost:          {self.cost:,.2f}")
        return said


def estimate(plan: VotesPlan, asked: EstimateConfig, *, overwrite: bool) -> Estimate:
    """Count what is left to do; reads of the store only which units it holds.

    Raises:
        ManifestError: The run is there and contradicts its id.
    """
    images, views = len(plan.listing), plan.wanted.defense.votes_per_image
    done = 0 if overwrite else plan.store.images_done()
    left = images - done
    hours = None if asked.images_per_second is None else left / asked.images_per_second / 3600
    return Estimate(
        run_id=plan.store.run_id,
        images=images,
        done=done,
        views=views,
        sequences=left * (views + 1),
        actor_hours=hours,
        cost=None
        if hours is None or asked.price_per_hour is None
        else hours * asked.price_per_hour,
    )
