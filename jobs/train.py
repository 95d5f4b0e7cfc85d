"""``patchcert train``: fine-tune a network on ablations."""

from pipeline.cluster.executor import find_executor
from pipeline.config import EstimateConfig
from pipeline.training.config import TrainConfig, TrainingPlace
from pipeline.training.curves import Curves
from pipeline.training.recipe import resolve_recipe


def train(
    *,
    what: TrainConfig,
    place: TrainingPlace = TrainingPlace(),
    before: EstimateConfig = EstimateConfig(),
) -> int:
    """Fine-tune a network on ablations, into weights for `run`; resumes what is unfinished.

    Raises:
        ConfigError, SourceError, WeightsError, UnknownModelError: The request is wrong.
        UnsupportedModelError: The network cannot be evaluated soundly as asked.
        JobError: The job failed; run again to resume.
    """
    # torch: --help and usage errors must not wait for it.
    from pipeline.training.checkpoint import read_checkpoint, remove_checkpoint  # noqa: PLC0415
    from pipeline.training.learner import check_network  # noqa: PLC0415
    from pipeline.training.reporting import TerminalReporter, forecast  # noqa: PLC0415

    recipe = resolve_recipe(what)
    # A checkpoint of another training should fail here, in words, before anything is started; and
    # so should weights that do not load.
    state = None if place.overwrite else read_checkpoint(place.out, recipe)
    check_network(recipe)
    if before.dry_run:
        print(*forecast(recipe, state, before), sep="\n")
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
            executor = find_executor(verbose=place.verbose)
            from pipeline.training.cluster import train_on_cluster  # noqa: PLC0415

            path = train_on_cluster(recipe, place, TerminalReporter(curves), executor)
    finally:
        curves.end(weights=path)
    print(f"weights={path}")
    return 0
