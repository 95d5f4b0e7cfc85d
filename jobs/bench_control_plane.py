"""``patchcert bench control-plane``: what a job costs besides pixels and network."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter

from jobs.bench import log, reach
from pipeline.config import ConfigError, at_least


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BenchControlPlaneConfig:
    """What is measured.

    Attributes:
        images: Sizes of the jobs, each a multiple of --per-shard.
        per_shard: Images a tar file.
        folder: Where data and votes lie meanwhile, 1 kB an image [the system's own].
        json: Print JSON instead of a table.
        mlflow: Tracking server to log to as well [none].
        experiment: MLflow experiment.
    """

    images: tuple[int, ...] = (1_000, 10_000, 100_000)
    per_shard: int = 1_000
    folder: str | None = None
    json: bool = False
    mlflow: str | None = None
    experiment: str = "patchcert-bench"

    def __post_init__(self) -> None:
        at_least(1, per_shard=self.per_shard)
        if any(count < 1 or count % self.per_shard for count in self.images):
            raise ConfigError(f"--images: give multiples of --per-shard {self.per_shard}")


def bench_control_plane(*, config: BenchControlPlaneConfig = BenchControlPlaneConfig()) -> int:
    """Measure what a job costs besides pixels and network, at any number of images.

    Raises:
        CheckError: The tracking server does not answer.
    """
    from pipeline.bench.control_plane import measure_control_plane  # noqa: PLC0415
    from pipeline.bench.hardware import hardware, in_words  # noqa: PLC0415

    reach(config.mlflow, config.experiment)
    result: dict[str, Any] = {"jobs": [], "hardware": hardware(torch_too=False)}
    for count in config.images:
        with tempfile.TemporaryDirectory(dir=config.folder, prefix="patchcert-bench-") as folder:
            found = measure_control_plane(Path(folder), count // config.per_shard, config.per_shard)
        result["jobs"].append(found)
        if not config.json:
            print(_in_words(found), flush=True)
    log("bench control-plane", result, config)
    print(json.dumps(result, indent=2) if config.json else in_words(result["hardware"]))
    return 0


def _in_words(of: dict[str, Any]) -> str:
    return (
        f"{of['images']:,} images in {of['shards']:,} shards, {of['units']:,} units: listed in "
        f"{of['listing_seconds']:.1f} s, then {of['voting_seconds']:.1f} s, "
        f"{of['overhead_ms_per_image']:.2f} ms an image\n"
        f"  driver {of['driver_start_mib']:.0f} MiB before it begins, "
        f"{of['driver_planned_mib']:.0f} listed, {of['driver_peak_mib']:.0f} at its peak; actor "
        f"{of['actor_peak_mib']:.0f} MiB; votes {of['votes_bytes_per_image']:.0f} bytes an image\n"
        f"  resumed: planned after {of['resume_planned_seconds']:.1f} s, first commit after "
        f"{of['resume_first_commit_seconds']:.1f} s, driver {of['resume_peak_mib']:.0f} MiB"
    )
