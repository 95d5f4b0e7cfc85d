"""Checks that must hold before a job computes, or an estimate in place of the job."""

import json
import sys
from collections.abc import Sequence

from pipeline.cluster.executor import Executor
from pipeline.config import EstimateConfig, OutputConfig, VotesConfig
from pipeline.preflight.estimate import estimate
from pipeline.preflight.findings import Check, look_at, require
from pipeline.preflight.stores import probe_output, reach_stores
from pipeline.preflight.workers import check_token, try_weights_on_worker
from pipeline.runs.defense import Defense
from pipeline.voting.plan import VotesPlan, check_weights_header, plan_each


def require_stores(what: VotesConfig, output: OutputConfig) -> None:
    """Refuse stores that do not answer, before the first long wait for one.

    Raises:
        PreflightError: Naming what is wrong.
    """
    require(look_at([("stores", lambda: reach_stores([what.data, what.weights, output.out]))]))


def check_plan(plan: VotesPlan, output: OutputConfig) -> None:
    """Check output and cluster, once there is something to compute.

    Raises:
        PreflightError: Naming what is wrong.
    """
    checks: list[Check] = [("output", lambda: probe_output(output.out))]
    if plan.executor.address:
        # Without a cluster, this process has tried the weights by now, and Ray is its own.
        checks += [
            ("token", lambda: check_token(plan.executor.address)),
            (
                "weights on a worker",
                lambda: try_weights_on_worker(
                    plan.config, plan.defense, plan.numerics, plan.executor
                ),
            ),
        ]
    require(look_at(checks))


def say_estimate(
    parts: Sequence[VotesConfig],
    defense: Defense,
    output: OutputConfig,
    asked: EstimateConfig,
    executor: Executor,
) -> int:
    """Print what the job would do; of several parts, the slices of a job, what each would.

    Raises:
        ConfigError, SourceError, WeightsError, UnknownModelError: The job would refuse the request.
    """
    check_weights_header(defense)
    found = []
    for number, what in enumerate(parts, 1):
        (plan,) = plan_each([(what, defense)], output, executor, keep=False)
        if len(parts) > 1:
            print(f"slice {number} of {len(parts)}, {what.data}", file=sys.stderr)
        print(*plan.listing.words(), sep="\n", file=sys.stderr)
        found.append(estimate(plan, asked, overwrite=what.overwrite))
        if not output.json:
            print(*found[-1].lines(), f"run_id={found[-1].run_id}", sep="\n", flush=True)
    if output.json:
        each = [vars(one) for one in found]
        print(json.dumps(each if len(parts) > 1 else each[0], indent=2, sort_keys=True))
    return 0
