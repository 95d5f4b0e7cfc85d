"""What votes: systems, convert, train, average, register."""

from typing import Annotated

from cyclopts import Parameter

from jobs.commands.app import Estimate, app
from jobs.convert import ConvertConfig
from jobs.register import RegisterConfig
from pipeline.config import (
    EstimateConfig,
)
from pipeline.training.config import Precision, TrainConfig, TrainingPlace


@app.command
def systems(*, markdown: bool = False) -> int:
    """List what can be evaluated: model families, ablations, token modes, voting.

    Args:
        markdown: Print the table of the documentation.
    """
    from jobs.systems import run_systems  # noqa: PLC0415

    return run_systems(markdown=markdown)


@app.command
def convert(
    released: str,
    out: str,
    /,
    *,
    what: Annotated[ConvertConfig, Parameter(name="*", group="What it holds")],
) -> int:
    """Convert a released smoothed-vit checkpoint to safetensors.

    Args:
        released: The checkpoint (.pt); it is only read.
        out: Where the weights go (.safetensors).
        what: What the checkpoint holds.
    """
    from jobs.convert import run_convert  # noqa: PLC0415

    return run_convert(released, out, what)


@app.command
def train(
    *,
    what: Annotated[TrainConfig, Parameter(name="*", group="What is learned")],
    place: Annotated[TrainingPlace, Parameter(name="*", group="Where")] = TrainingPlace(),  # noqa: B008
    before: Estimate = EstimateConfig(),  # noqa: B008
) -> int:
    """Fine-tune a network on ablations, into weights for `run`; resumes what is unfinished."""
    from jobs.train import run_train  # noqa: PLC0415

    return run_train(what, place, before)


@app.command
def average(
    weights: Annotated[list[str], Parameter(negative=())],
    /,
    *,
    out: str,
    save_as: Precision | None = None,
) -> int:
    """Average weights that were trained from the same ones: one network, often better than each.

    Args:
        weights: Files that `train` wrote, local or s3://; two or more.
        out: Where the mean goes (.safetensors).
        save_as: Type of the written weights [the first file's].
    """
    from jobs.average import run_average  # noqa: PLC0415

    return run_average(weights, out, save_as)


@app.command
def register(
    run: str | None = None,
    /,
    *,
    what: Annotated[RegisterConfig, Parameter(name="*", group="Where to")],
) -> int:
    """Enter a run's weights into MLflow's model registry, with its certified figures.

    Args:
        run: A run, or the beginning of its id; may be left out where --out holds one only.
        what: Name of the entry, and where it goes.
    """
    from jobs.register import run_register  # noqa: PLC0415

    return run_register(run, what)
