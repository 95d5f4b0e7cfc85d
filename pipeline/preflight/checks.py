"""Checks that must hold before a job computes, or an estimate in place of the job."""

import json

from pipeline.config import EstimateConfig, OutputConfig, VotesConfig
from pipeline.preflight.estimate import estimate
from pipeline.preflight.findings import Check, look_at, require
from pipeline.preflight.stores import probe_output, reach_stores
from pipeline.preflight.workers import check_token, cluster_address, try_weights_on_worker
from pipeline.runs.defense import Defense
from pipeline.runs.numerics import on_cluster
from pipeline.sources.listing_cache import ListingCache
from pipeline.voting.plan import VotesPlan, check_weights_header, plan_votes


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
    if on_cluster():
        # Without a cluster, this process has tried the weights by now, and Ray is its own.
        checks += [
            ("token", lambda: check_token(cluster_address())),
            (
                "weights on a worker",
                lambda: try_weights_on_worker(
                    plan.config, plan.defense, plan.numerics, verbose=output.verbose
                ),
            ),
        ]
    require(look_at(checks))


def say_estimate(
    what: VotesConfig, defense: Defense, output: OutputConfig, asked: EstimateConfig
) -> int:
    """Print what the job would do.

    Raises:
        ConfigError, SourceError, WeightsError, UnknownModelError: The job would refuse the request.
    """
    check_weights_header(defense)
    plan = plan_votes(what, defense, output, ListingCache())
    found = estimate(plan, asked, overwrite=what.overwrite)
    if output.json:
        print(json.dumps(vars(found), indent=2, sort_keys=True))
    else:
        print(*found.lines(), f"run_id={found.run_id}", sep="\n")
    return 0
