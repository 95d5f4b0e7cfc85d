"""Votes and certificates: run, votes, certify, sweep, and what they need: doctor, submit."""

from typing import Annotated

from cyclopts import Parameter

from jobs.commands.app import Claims, Estimate, Output, What, app
from jobs.submit import SubmitConfig
from pipeline.config import (
    ClaimsConfig,
    EstimateConfig,
    OutputConfig,
)
from pipeline.sweep.config import Axes, FixedConfig


@app.command
def run(
    *,
    what: What,
    claims: Claims = ClaimsConfig(),  # noqa: B008  (frozen)
    output: Output = OutputConfig(),  # noqa: B008
    before: Estimate = EstimateConfig(),  # noqa: B008
) -> int:
    """Vote on every image, certify, and log the run: the whole job."""
    from jobs.run import run_all  # noqa: PLC0415

    return run_all(what, claims, output, before)


@app.command
def votes(
    *,
    what: What,
    output: Output = OutputConfig(),  # noqa: B008
    before: Estimate = EstimateConfig(),  # noqa: B008
) -> int:
    """Vote on every image and store the votes; resumes what is unfinished."""
    from jobs.votes import run_votes  # noqa: PLC0415

    return run_votes(what, output, before)


@app.command
def certify(
    *,
    run_id: str | None = None,
    stride: int | None = None,
    ray: bool = False,
    claims: Claims = ClaimsConfig(),  # noqa: B008
    output: Output = OutputConfig(),  # noqa: B008
) -> int:
    """Certify stored votes: no model, no images, no GPU.

    Args:
        run_id: Which run; may be left out where --out holds one only.
        stride: Count the votes of this stride only, in pixels, a multiple of the run's own.
        ray: Spread millions of images over Ray, as jobs on a cluster do by themselves.
        claims: What to certify.
        output: Where the votes lie and results go.
    """
    from jobs.certify import run_certify  # noqa: PLC0415

    return run_certify(run_id, stride, claims, output, ray=ray)


@app.command
def sweep(
    *,
    axes: Annotated[Axes, Parameter(name="*", group="What varies")],
    fixed: Annotated[FixedConfig, Parameter(name="*", group="What all have in common")],
    claims: Claims = ClaimsConfig(),  # noqa: B008
    output: Output = OutputConfig(),  # noqa: B008
    dry_run: Annotated[bool, Parameter(group="Before it")] = False,
) -> int:
    """Run every combination of settings that is missing; nested MLflow runs, one table.

    Args:
        axes: Options with several values.
        fixed: Options with one.
        claims: What to certify.
        output: Where results go.
        dry_run: Say which points need votes, and how many; compute nothing.
    """
    from jobs.sweep import run_sweep  # noqa: PLC0415

    return run_sweep(axes, fixed, claims, output, dry_run=dry_run)


@app.command
def doctor(
    *,
    what: What,
    claims: Claims = ClaimsConfig(),  # noqa: B008
    output: Output = OutputConfig(),  # noqa: B008
) -> int:
    """Check all that a run needs: stores, data, output, MLflow, token, cluster, weights."""
    from jobs.doctor import run_doctor  # noqa: PLC0415

    return run_doctor(what, claims, output)


@app.command
def submit(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    where: Annotated[SubmitConfig, Parameter(name="*", group="Where")],
) -> int:
    """Send a command to a Ray cluster as a job, follow its log, and end with its exit code.

    Args:
        command: After --: the command, such as -- run --config run.yaml.
        where: Which cluster.
    """
    from jobs.submit import run_submit  # noqa: PLC0415

    return run_submit(command, where)
