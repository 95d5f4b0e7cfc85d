"""What a training would do, counted rather than done."""

from collections.abc import Iterator
from typing import Any

from pipeline.config import EstimateConfig
from pipeline.training.recipe import Recipe


def forecast(recipe: Recipe, state: dict[str, Any] | None, asked: EstimateConfig) -> Iterator[str]:
    """Size and price of a training, a line each.

    Args:
        recipe: What would be trained.
        state: The checkpoint that it would resume from; None to begin.
        asked: The speed of all workers together, and the price of an hour of them.
    """
    config, ablation = recipe.config, recipe.voter.ablation
    steps = config.epochs * recipe.order.steps
    done = 0 if state is None else int(state["learner"]["done"])
    yield f"images:        {len(recipe.train):,} to learn from, {len(recipe.held_out):,} held out"
    yield (
        f"network:       {recipe.voter.model}, {recipe.voter.num_classes} classes, "
        f"tokens {recipe.voter.tokens}"
    )
    yield (
        f"ablations:     {ablation.kind} of {ablation.size} px at stride {ablation.stride}: "
        f"{len(ablation)} of an image, {config.views} of them a step"
    )
    yield (
        f"steps:         {config.epochs} epochs x {recipe.order.steps:,} steps of "
        f"{config.batch:,} images = {steps:,}"
    )
    yield f"there already: {done:,} (a resume skips them)"
    if asked.images_per_second is None:
        yield "hours, cost:   give --images-per-second (of all workers) and --price-per-hour"
        return
    hours = (steps - done) * config.batch / asked.images_per_second / 3600
    yield f"hours:         {hours:,.2f}"
    if asked.price_per_hour is not None:
        yield f"cost:          {hours * asked.price_per_hour:,.2f}"
