"""Settings of a dry run and of the output of a job."""

from dataclasses import dataclass

from cyclopts import Parameter

from pipeline.config.errors import ConfigError
from pipeline.config.flags import Advanced


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EstimateConfig:
    """Settings of a dry run.

    Attributes:
        dry_run: Say what would be computed, what a resume skips and what it costs; write nothing.
        images_per_second: Speed of one actor, as `patchcert bench` or a run with --limit says it.
        price_per_hour: Price of one actor's machine, in any currency.
    """

    dry_run: bool = False
    images_per_second: Advanced[float | None] = None
    price_per_hour: Advanced[float | None] = None

    def __post_init__(self) -> None:
        for name in ("images_per_second", "price_per_hour"):
            value = getattr(self, name)
            flag = "--" + name.replace("_", "-")
            if value is not None and not self.dry_run:
                raise ConfigError(f"{flag} {value}: it belongs to --dry-run")
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{flag} {value}: it must be above 0")
        if self.price_per_hour is not None and self.images_per_second is None:
            raise ConfigError("--price-per-hour: hours follow from --images-per-second; give both")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Settings of the results: their folder and how they are printed.

    Attributes:
        out: Folder of all results, local or s3://.
        json: Print one JSON document in place of tables and run_id=...
        verbose: Show Ray's own log, and how long each stage took up to the first votes.
    """

    out: str = "out"
    json: bool = False
    verbose: Advanced[bool] = False
