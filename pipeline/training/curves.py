"""A training in MLflow: one run per training, its curves logged by the driver as they grow."""

import logging
import os
from typing import Any

from pipeline.config import ClaimsConfig
from pipeline.manifest import flatten
from pipeline.tracking import TrackingError, experiment_id, redact, tracking_uri
from pipeline.tracking.description import origin
from pipeline.training.config import TrainingPlace
from pipeline.training.recipe import Recipe

_TAG = "patchcert.training_id"


class Curves:
    """The MLflow run of a training, found again when it is resumed.

    Raises:
        ConfigError: Results lie on S3, where sqlite cannot, and no server is given.
        TrackingError: MLflow failed.
    """

    def __init__(self, recipe: Recipe, place: TrainingPlace) -> None:
        claims = ClaimsConfig(mlflow=place.mlflow, experiment=place.experiment)
        self._uri = tracking_uri(claims, place.out)
        if self._uri is None:
            return
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow  # noqa: PLC0415  (two seconds, and unneeded where tracking is off)

        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._call(mlflow.set_tracking_uri, self._uri)
        experiment = self._call(experiment_id, claims, self._uri, place.out)
        self._client = mlflow.MlflowClient()
        found = self._call(
            self._client.search_runs,
            [experiment],
            filter_string=f"tags.`{_TAG}` = '{recipe.training_id}'",
            max_results=1,
        )
        if found:
            self._run = found[0].info.run_id
            self._call(self._client.update_run, self._run, status="RUNNING")
            return
        ablation = recipe.voter.ablation
        name = f"train {recipe.voter.model} {ablation.kind} b{ablation.size} s{ablation.stride}"
        tags = {_TAG: recipe.training_id, "patchcert.data": recipe.config.data} | origin()
        run = self._call(self._client.create_run, experiment, run_name=name, tags=tags)
        self._run = run.info.run_id
        for key, value in flatten(recipe.identity()).items():
            self._call(self._client.log_param, self._run, key, value)

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """Log what was measured after an epoch."""
        if self._uri is not None:
            for name, value in figures.items():
                self._call(self._client.log_metric, self._run, name, value, step=epoch)

    def end(self, *, weights: str | None) -> None:
        """The training is over; without weights it failed, and may be resumed."""
        if self._uri is None:
            return
        if weights is not None:
            self._call(self._client.set_tag, self._run, "patchcert.weights", weights)
        status = "FAILED" if weights is None else "FINISHED"
        self._call(self._client.set_terminated, self._run, status=status)

    def _call(self, function: Any, *arguments: Any, **named: Any) -> Any:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        try:
            return function(*arguments, **named)
        except (MlflowException, OSError) as error:
            assert self._uri is not None
            reason = redact(str(error).splitlines()[0])
            raise TrackingError(
                f"MLflow at {redact(self._uri)}: {reason}. The training's checkpoint is safe; run "
                "again once it answers, or with --mlflow none"
            ) from error
