"""``patchcert bench``: speed, as ratios of one run."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cyclopts import Parameter
from rich.console import Console

from pipeline.analysis import open_run
from pipeline.bench.hardware import hardware, peak_memory_mib
from pipeline.bench.table import print_bench
from pipeline.config import ClaimsConfig, ConfigError, Device, Dtype, VotesConfig, at_least
from pipeline.preflight.tracker import reach_tracker
from pipeline.runs.cpus import usable_cpus
from pipeline.runs.numerics import probe_machine
from pipeline.runs.store import run_ids


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Settings of a measurement.

    Attributes:
        model: timm name of a Vision Transformer; its weights are random.
        size: Width of the bands in pixels, of 224.
        stride: Distances of neighbouring bands in pixels.
        masks: Masks an axis, at most, of pairs of masks to time beside the bands.
        covers: Side of the largest patch that these masks cover, in pixels.
        saved_by: Folder of results: of its certified runs with early exit, the views left out.
        dtype: Arithmetic to compare [float32; on CUDA bfloat16 too].
        device: Where the networks run.
        microbatch: Sequences a forward pass [as many as a run takes].
        images: Images a votes pass.
        rounds: How often each contender is timed; the least counts.
        pipeline: Images of a whole votes job, on Ray and without, beside the bare engine; 0 leaves
            it out.
        json: Print JSON instead of a table.
        mlflow: Tracking server to log to as well [none].
        experiment: MLflow experiment.
    """

    model: str = "deit_tiny_patch16_224"
    size: int = 19
    stride: tuple[int, ...] = (1, 16)
    masks: tuple[int, ...] = (6, 3)
    covers: int = 32
    saved_by: str | None = None
    dtype: tuple[Dtype, ...] | None = None
    device: Device = "auto"
    microbatch: int | None = None
    images: int = 16
    rounds: int = 3
    pipeline: int = 0
    json: bool = False
    mlflow: str | None = None
    experiment: str = "patchcert-bench"

    def __post_init__(self) -> None:
        at_least(1, size=self.size, images=self.images, rounds=self.rounds)
        VotesConfig(data="-", weights="-", microbatch=self.microbatch)  # within a run's bounds
        if not self.stride or min(self.stride) < 1:
            raise ConfigError("--stride: give one or more distances of at least 1 px")
        if not self.masks or min(self.masks) < 1:
            raise ConfigError("--masks: give one or more numbers of at least 1")
        if not 1 <= self.covers <= 224:
            raise ConfigError(f"--covers {self.covers}: it must fit an image of 224 px")
        # The first two units are where its steady pace begins and ends.
        if self.pipeline and self.pipeline < 96:
            raise ConfigError(f"--pipeline {self.pipeline}: a steady pace needs at least 96 images")


def bench(*, config: BenchConfig = BenchConfig()) -> int:
    """Measure the speed of the engine and the pipeline, as ratios of things timed side by side."""
    # torch: --help must not wait for it.
    import torch  # noqa: PLC0415

    from pipeline.bench.end_to_end import decode_rates  # noqa: PLC0415
    from pipeline.bench.engine import EngineSettings, measure_engine  # noqa: PLC0415

    reach(config.mlflow, config.experiment)
    machine = probe_machine(config.device)
    torch.set_num_threads(usable_cpus())
    both: tuple[Dtype, ...] = ("float32", "bfloat16")
    settings = EngineSettings(
        model=config.model,
        size=config.size,
        strides=config.stride,
        masks=config.masks,
        covers=config.covers,
        dtypes=config.dtype or (both if machine.device == "cuda" else both[:1]),
        device=machine.device,
        microbatch=config.microbatch,
        images=config.images,
        rounds=config.rounds,
    )
    early_exit = [] if config.saved_by is None else saved_by_early_exit(config.saved_by)
    _say(f"measuring the engine: {settings.images} images, {settings.rounds} rounds each")
    engine = measure_engine(settings)
    _say("measuring decoding")
    decode = decode_rates()
    result: dict[str, Any] = {
        "engine": engine,
        "decode": decode,
        "early_exit": early_exit,
        "pipeline": _pipeline(config),
        "peak_memory_mib": peak_memory_mib(),
        "hardware": hardware(),
    }
    if config.json:
        print(json.dumps(result, indent=2))
    else:
        print_bench(result, Console(highlight=False))
    log(f"bench {config.model} b{config.size}", result, config)
    return 0


def saved_by_early_exit(out: str) -> list[dict[str, Any]]:
    """Return of each certified run with early exit how many of its views were asked.

    Raises:
        ConfigError: There is none.
    """
    runs = [open_run(out, run_id) for run_id in run_ids(out)]
    found = [
        {
            "run_id": run.run_id,
            "views": str(run.manifest.defense.views),
            "images": run.summary["images"],
            "of": run.summary["ablations"],
            "views_asked": run.summary["views_asked"],
            "share_saved": 1 - run.summary["views_asked"] / run.summary["ablations"],
        }
        for run in runs
        if run.summary is not None and "views_asked" in run.summary
    ]
    if not found:
        raise ConfigError(
            f"--saved-by {out}: it holds no certified run with early exit; give the --out of a "
            "run with --views mask-pair"
        )
    return found


def _say(what: str) -> None:
    # No spinner: it would take time from what is measured.
    print(f"{what} ...", file=sys.stderr, flush=True)


class Logging(Protocol):
    """Part of a request that says where a measurement is logged."""

    @property
    def mlflow(self) -> str | None: ...  # noqa: D102
    @property
    def experiment(self) -> str: ...  # noqa: D102


def reach(mlflow: str | None, experiment: str) -> None:
    """Ask the tracking server, if there is one, before minutes of measuring.

    Raises:
        CheckError: It does not answer.
    """
    if mlflow is None:
        return
    reach_tracker(ClaimsConfig(mlflow=mlflow, experiment=experiment), "")


def log(name: str, result: Mapping[str, Any], config: Logging) -> None:
    """Log a measurement, if there is a server; say where, on standard error."""
    if config.mlflow in (None, "none"):
        return
    # MLflow takes two seconds to import, and a bare GPU machine need not have it.
    from pipeline.tracking.measurements import log_measurement  # noqa: PLC0415

    settings = {
        key: value
        for key, value in vars(config).items()
        if key not in ("json", "mlflow", "experiment")
    }
    assert config.mlflow is not None
    where = log_measurement(
        name, result, settings, mlflow=config.mlflow, experiment=config.experiment
    )
    print(f"logged to MLflow at {where}", file=sys.stderr)


def _pipeline(config: BenchConfig) -> dict[str, Any] | None:
    """The whole job beside the bare engine, if asked for."""
    if not config.pipeline:
        return None
    # Ray is not needed for the rest, so that a machine without it can measure.
    from pipeline.bench.end_to_end import pipeline_over_engine  # noqa: PLC0415

    _say(f"measuring a whole job of {config.pipeline} images beside the engine")
    return pipeline_over_engine(
        config.model,
        config.size,
        config.stride[0],
        device=config.device,
        images=config.pipeline,
    )
