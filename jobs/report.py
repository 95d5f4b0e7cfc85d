"""``patchcert report``: runs as one HTML page."""

from dataclasses import dataclass

from cyclopts import Parameter

from pipeline import storage
from pipeline.analysis import open_run
from pipeline.config import ConfigError
from pipeline.tracking import TrackingError, log_page, redact


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Contents of the page, and its place.

    Attributes:
        to: The page (.html), local or s3://.
        data: Where the images lie, if no longer where they were voted on.
        no_images: Show no pictures of images, and do not look for them.
        intersect: Compare the images that runs have in common, where they are over different ones.
        mlflow: Tracking server to log the page to; default: where the run was logged, else an
            sqlite file in --out; none logs nothing.
        experiment: MLflow experiment [where the run was logged, else patchcert].
        out: Folder of all results, local or s3://.
    """

    to: str
    data: str | None = None
    no_images: bool = False
    intersect: bool = False
    mlflow: str | None = None
    experiment: str | None = None
    out: str = "out"

    def __post_init__(self) -> None:
        if not self.to.endswith((".html", ".htm")):
            raise ConfigError(f"--to {self.to}: the page is HTML; end the name in .html")


def report(*runs: str, what: ReportConfig) -> int:
    """Write one or several runs as one HTML page, whole in itself; log it to MLflow.

    Args:
        runs: Runs, or the beginnings of their ids; may be left out where --out holds one only. The
            others are compared with the first.
        what: What the page holds, and where it goes.

    Raises:
        ConfigError: There is no such run, or it has not been certified.
        ManifestError, StoreError: Votes or certificates are absent, incomplete or contradictory.
    """
    # matplotlib: --help must not wait for it.
    from pipeline.report.page.writing import page_of  # noqa: PLC0415

    opened = [open_run(what.out, run_id) for run_id in runs or (None,)]
    page = page_of(opened, intersect=what.intersect, images=not what.no_images, data=what.data)
    storage.write_atomically(what.to, page)
    print(f"page:   {what.to}")
    for run in opened:
        try:
            uri = log_page(run.store, page, what.mlflow, what.experiment)
            said = redact(uri) if uri else f"run {run.run_id} was not logged"
        except (ConfigError, TrackingError) as error:  # the page is there all the same
            said = str(error)
        print(f"MLflow: {said}")
        print(f"run_id={run.run_id}")
    return 0
