"""Check of the tracking server."""

from pipeline.config import ClaimsConfig
from pipeline.preflight.findings import CheckError
from pipeline.tracking import redact, tracking_uri
from pipeline.tracking.database import check_database, file_of
from pipeline.tracking.server import first_contact, in_words


def reach_tracker(claims: ClaimsConfig, out: str) -> str:
    """Ask the tracking server for its experiments, or look at its sqlite file.

    Raises:
        CheckError: It does not answer, or refuses.
        ConfigError: No server is given where one is needed.
        DatabaseError: The file cannot be used.
    """
    uri = tracking_uri(claims, out)
    if uri is None:
        return "nothing is logged (--mlflow none)"
    if (path := file_of(uri)) is not None:
        if path.exists():
            check_database(path)
        return "an sqlite file in --out" if claims.mlflow is None else f"an sqlite file, {path}"
    try:
        first_contact(uri)
    except Exception as error:
        if (said := in_words(error)) is None:
            raise
        raise CheckError(
            f"MLflow at {redact(uri)} does not answer ({said}); "
            "start it, correct --mlflow, or give --mlflow none"
        ) from error
    return f"{redact(uri)} answers"
