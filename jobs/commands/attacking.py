"""Trying to refute a certificate: attack, witness, audit."""

from typing import Annotated

from cyclopts import Parameter

from jobs.audit import AuditConfig
from jobs.commands.app import Output, app
from pipeline.attack.config import AttackConfig, WitnessConfig
from pipeline.config import (
    OutputConfig,
)


@app.command
def attack(
    *,
    what: Annotated[AttackConfig, Parameter(name="*", group="What is attacked")] = AttackConfig(),  # noqa: B008
    output: Output = OutputConfig(),  # noqa: B008
) -> int:
    """Try to refute a run's certificates with real patches, through the whole pipeline."""
    from jobs.attack import run_attack  # noqa: PLC0415

    return run_attack(what, output)


@app.command
def witness(
    *,
    what: Annotated[
        WitnessConfig, Parameter(name="*", group="What is rewritten")
    ] = WitnessConfig(),  # noqa: B008
    output: Output = OutputConfig(),  # noqa: B008
) -> int:
    """Rewrite stored votes to change every image without a certificate: no model, no images."""
    from jobs.witness import run_witness  # noqa: PLC0415

    return run_witness(what, output)


@app.command
def audit(
    *,
    what: Annotated[AuditConfig, Parameter(name="*", group="What is compared")] = AuditConfig(),  # noqa: B008
) -> int:
    """Hold the published certificate against the sound rules, and break what it gets wrong."""
    from jobs.audit import run_audit  # noqa: PLC0415

    return run_audit(what)
