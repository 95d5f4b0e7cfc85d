"""MLflow: the only code that knows of it."""

from pipeline.storage.addresses import redact
from pipeline.tracking.certified import log_page, log_run
from pipeline.tracking.description import run_name
from pipeline.tracking.server import TrackingError, how_to_look, quiet_client, tracking_uri
from pipeline.tracking.watching import watched

__all__ = [
    "TrackingError",
    "how_to_look",
    "log_page",
    "log_run",
    "quiet_client",
    "redact",
    "run_name",
    "tracking_uri",
    "watched",
]
