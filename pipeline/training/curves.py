"""Curves of a training in MLflow: one MLflow run a training, found again on a resume."""

from pipeline.config import ClaimsConfig
from pipeline.runs.manifest import flatten
from pipeline.tracking.description import origin
from pipeline.tracking.points import Point
from pipeline.tracking.server import Tracker, connect, failures_said, tracking_uri
from pipeline.training.config import TrainingPlace
from pipeline.training.recipe import Recipe

_TAG = "patchcert.training_id"
_REMEDY = "The training goes on, and what is not logged is logged with the next epoch or at the end"
_TOO_LATE = "Checkpoint and figures so far are safe, but these curves are not in MLflow"


class Curves:
    """The MLflow run of a training; does nothing where tracking is off.

    Whatever MLflow raises is said on standard error, and ends no training.

    Raises:
        ConfigError: Results lie on S3, where sqlite cannot, and no server is given.
    """

    def __init__(self, recipe: Recipe, place: TrainingPlace) -> None:
        self._recipe, self._out = recipe, place.out
        self._claims = ClaimsConfig(mlflow=place.mlflow, experiment=place.experiment)
        self._begun: tuple[Tracker, str] | None = None
        self._waiting: list[Point] = []
        self._off = tracking_uri(self._claims, self._out) is None
        self._log()

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """Log what was measured after an epoch."""
        self._waiting += [Point(name, value, epoch) for name, value in figures.items()]
        self._log()

    def end(self, *, weights: str | None) -> None:
        """End the MLflow run; without weights the training failed, and may be resumed."""
        self._log(ended="FAILED" if weights is None else "FINISHED", weights=weights)

    def _log(self, *, ended: str | None = None, weights: str | None = None) -> None:
        if self._off:
            return
        with failures_said(self._claims, self._out, _REMEDY if ended is None else _TOO_LATE):
            if self._begun is None:
                self._begun = self._begin()
            tracker, run = self._begun
            tracker.log_points(run, self._waiting)
            self._waiting.clear()
            if weights is not None:
                tracker.set(run, tags={"patchcert.weights": weights}, params={})
            if ended is not None:
                tracker.client.set_terminated(run, status=ended)

    def _begin(self) -> tuple[Tracker, str]:
        """The MLflow run, begun where there is none."""
        tracker = connect(self._claims, self._out)
        assert tracker is not None
        tag = {_TAG: self._recipe.training_id}
        found = tracker.find(tag)
        if found is not None:
            run = str(found.info.run_id)
            tracker.client.update_run(run, status="RUNNING")
            return tracker, run
        views = " ".join(self._recipe.defense.views.describe().tags)
        model = self._recipe.defense.network.name
        name = f"train {model} {views}"
        tags = tag | {"patchcert.data": self._recipe.config.data} | origin()
        run = str(tracker.create(name, tags).info.run_id)
        tracker.set(run, tags={}, params=flatten(self._recipe.identity()))
        return tracker, run
