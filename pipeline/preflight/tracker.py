"""Check of the tracking server."""

import os
from unittest.mock import patch

from pipeline.config import ClaimsConfig
from pipeline.preflight.findings import CheckError
from pipeline.tracking import redact, tracking_uri

# MLflow's own patience with a server is minutes.
_BRIEF = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


def reach_tracker(claims: ClaimsConfig, out: str) -> str:
    """Ask the tracking server for its experiments.

    Raises:
        CheckError: It does not answer, or refuses.
        ConfigError: No server is given where one is needed.
    """
    uri = tracking_uri(claims, out)
    if uri is None:
        return "nothing is logged (--mlflow none)"
    if claims.mlflow is None:
        return "an sqlite file in --out"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow  # noqa: PLC0415  (two seconds, and unneeded where tracking is off)
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        with patch.dict(os.environ, _BRIEF):
            mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        raise CheckError(
            f"MLflow at {redact(uri)} does not answer ({redact(str(error).splitlines()[0])}); "
            "start it, correct --mlflow, or give --mlflow none"
        ) from error
    return f"{redact(uri)} answers"
