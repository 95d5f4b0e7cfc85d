"""``patchcert train``: fine-tune a network on ablations. Also ``python -m jobs.train``."""

import sys

from pipeline.config import EstimateConfig
from pipeline.training.config import TrainConfig, TrainingPlace


def run_train(
    what: TrainConfig,
    place: TrainingPlace,
    asked: EstimateConfig = EstimateConfig(),  # noqa: B008  (frozen)
) -> int:
    """Train, log the curves, and say where the weights are.

    Raises:
        ConfigError, SourceError, WeightsError, UnknownModelError: The request is wrong.
        UnsupportedModelError: The network cannot be evaluated soundly as asked.
        JobError, TrackingError: The job failed; run again to resume.
    """
    # torch, and perhaps Ray: --help and usage errors must not wait for them.
    from pipeline.training.checkpoint import read_checkpoint, remove_checkpoint  # noqa: PLC0415
    from pipeline.training.curves import Curves  # noqa: PLC0415
    from pipeline.training.learner import check_network  # noqa: PLC0415
    from pipeline.training.recipe import resolve_recipe  # noqa: PLC0415
    from pipeline.training.reporting import TerminalReporter, forecast  # noqa: PLC0415

    recipe = resolve_recipe(what)
    # A checkpoint of another training should fail here, in words, before anything is started; and
    # so should weights that do not load.
    state = None if place.overwrite else read_checkpoint(place.out, recipe)
    check_network(recipe)
    if asked.dry_run:
        print(*forecast(recipe, state, asked), sep="\n")
        return 0
    if place.overwrite:
        remove_checkpoint(place.out)
    curves = Curves(recipe, place)
    path = None
    try:
        if place.no_ray:
            from pipeline.training.local import train_locally  # noqa: PLC0415

            path = train_locally(recipe, place, TerminalReporter(curves))
        else:
            from pipeline.training.cluster import train_on_cluster  # noqa: PLC0415

            path = train_on_cluster(recipe, place, TerminalReporter(curves))
    finally:
        curves.end(weights=path)
    print(f"weights={path}")
    return 0


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
