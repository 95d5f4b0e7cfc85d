"""Curves of a training in MLflow: one MLflow run a training, found again on a resume."""

from pipeline.config import ClaimsConfig
from pipeline.runs.manifest import flatten
from pipeline.tracking.description import origin
from pipeline.tracking.points import Point
from pipeline.tracking.server import connect, failures_as_text
from pipeline.training.config import TrainingPlace
from pipeline.training.recipe import Recipe

_TAG = "patchcert.training_id"
_REMEDY = "The training's checkpoint is safe; run again once it answers, or with --mlflow none"


class Curves:
    """The MLflow run of a training; does nothing where tracking is off.

    Raises:
        ConfigError: Results lie on S3, where sqlite cannot, and no server is given.
        TrackingError: MLflow failed.
    """

    def __init__(self, recipe: Recipe, place: TrainingPlace) -> None:
        claims = ClaimsConfig(mlflow=place.mlflow, experiment=place.experiment)
        self._where = claims, place.out, _REMEDY
        with failures_as_text(*self._where):
            self._tracker = connect(claims, place.out)
            if self._tracker is None:
                return
            tag = {_TAG: recipe.training_id}
            run = self._tracker.find(tag)
            if run is not None:
                self._run = str(run.info.run_id)
                self._tracker.client.update_run(self._run, status="RUNNING")
                return
            views = " ".join(recipe.defense.views.describe().tags)
            name = f"train {recipe.defense.network.name} {views}"
            tags = tag | {"patchcert.data": recipe.config.data} | origin()
            self._run = str(self._tracker.create(name, tags).info.run_id)
            self._tracker.set(self._run, tags={}, params=flatten(recipe.identity()))

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """Log what was measured after an epoch."""
        if self._tracker is not None:
            points = [Point(name, value, epoch) for name, value in figures.items()]
            with failures_as_text(*self._where):
                self._tracker.log_points(self._run, points)

    def end(self, *, weights: str | None) -> None:
        """End the MLflow run; without weights the training failed, and may be resumed."""
        if self._tracker is None:
            return
        with failures_as_text(*self._where):
            if weights is not None:
                self._tracker.set(self._run, tags={"patchcert.weights": weights}, params={})
            status = "FAILED" if weights is None else "FINISHED"
            self._tracker.client.set_terminated(self._run, status=status)
