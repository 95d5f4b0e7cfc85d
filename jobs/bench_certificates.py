"""``patchcert bench certificates``: what certifying stored votes costs."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter

from jobs.bench import log, reach
from pipeline.config import ConfigError, at_least

# Of the synthetic votes: rivals that each image has to choose from, and images a file.
_LEAST_CLASSES, _UNIT_IMAGES = 33, 256


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BenchCertificatesConfig:
    """What is measured.

    Attributes:
        images: Synthetic images of each family of ablations (224 columns, 196 blocks).
        classes: Classes voted for.
        loop: Images a CPU that the plain loop certifies; its time is scaled up.
        rounds: How often each is timed; the least counts.
        scale: Multiples of --images to certify as a Ray Data job as well, such as 1 4 16.
        folder: Where votes and results lie meanwhile, 1.2 kB an image [the system's own].
        json: Print JSON instead of text.
        mlflow: Tracking server to log to as well [none].
        experiment: MLflow experiment.
    """

    images: int = 50_000
    classes: int = 1000
    loop: int = 20
    rounds: int = 3
    scale: tuple[int, ...] = ()
    folder: str | None = None
    json: bool = False
    mlflow: str | None = None
    experiment: str = "patchcert-bench"

    def __post_init__(self) -> None:
        at_least(1, images=self.images, loop=self.loop, rounds=self.rounds)
        at_least(_LEAST_CLASSES, classes=self.classes)
        if any(multiple < 1 for multiple in self.scale):
            raise ConfigError("--scale: every multiple must be at least 1")
        if self.scale and self.images % _UNIT_IMAGES:
            raise ConfigError(
                f"--images {self.images}: with --scale it must be a multiple of {_UNIT_IMAGES}"
            )


def bench_certificates(*, config: BenchCertificatesConfig = BenchCertificatesConfig()) -> int:
    """Measure how fast (synthetic) votes become certificates, beside a plain loop."""
    from pipeline.bench.certificates import measure_certificates  # noqa: PLC0415
    from pipeline.bench.hardware import hardware, in_words  # noqa: PLC0415

    reach(config.mlflow, config.experiment)
    with tempfile.TemporaryDirectory(dir=config.folder) as folder:
        result = measure_certificates(
            Path(folder),
            images=config.images,
            num_classes=config.classes,
            loop_images=config.loop,
            rounds=config.rounds,
            scale=config.scale,
        )
    result["hardware"] = hardware(torch_too=False)
    log("bench certificates", result, config)
    if config.json:
        print(json.dumps(result, indent=2))
        return 0
    for name in ("columns", "blocks"):
        print(_family_in_words(name, result[name]))
    for part in result["scale"]:
        print(
            f"{part['images']} images, 224 columns, as a Ray Data job: {part['seconds']:.1f} s, "
            f"{part['seconds_per_million']:.1f} s a million; "
            f"driver's peak memory {part['driver_memory_mib']:.0f} MiB"
        )
    print(in_words(result["hardware"]))
    return 0


def _family_in_words(name: str, of: dict[str, Any]) -> str:
    sides = of["sides"] if isinstance(of["sides"], str) else f"patches {of['sides']} px"
    voted = of["voted_classes"]
    return (
        f"{of['images']} images, {of['ablations']} {name}, {of['classes']} classes, Parquet to "
        f"Parquet: {of['seconds']:.2f} s, peak memory {of['peak_memory_mib']:.0f} MiB\n"
        f"  a plain numpy loop on as many CPUs, exact rule, {sides}: {of['loop_seconds']:.0f} s "
        f"(from {of['loop_images']} images, scaled): {of['ratio']:.0f}x\n"
        f"  the votes: {100 * of['certified_32px']:.0f} % certified at 32 px, "
        f"{100 * of['beyond_uniform']:.0f} % at a larger size than the uniform rule says; "
        f"{voted['least']} voted classes an image at least, {voted['mean']:.1f} in the mean"
    )
