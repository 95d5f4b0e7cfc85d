"""``patchcert votes``: images in, votes in Parquet."""

import json
import sys
from contextlib import nullcontext
from typing import Any

from pipeline.cluster.executor import Executor, find_executor
from pipeline.config import ClaimsConfig, EstimateConfig, OutputConfig, VotesConfig
from pipeline.preflight.checks import check_plan, require_stores, say_estimate
from pipeline.runs.defense import Defense
from pipeline.runs.origins import say_defense
from pipeline.runs.resolve import resolve_defense
from pipeline.tracking import watched
from pipeline.voting.plan import VotesOutcome, found_votes, open_plan, vote


def votes(
    *,
    what: VotesConfig,
    output: OutputConfig = OutputConfig(),
    before: EstimateConfig = EstimateConfig(),
) -> int:
    """Vote on every image and store the votes; resumes what is unfinished."""
    executor = find_executor(verbose=output.verbose, no_ray=what.no_ray)
    require_stores(what, output)
    defense = resolve_defense(what)
    say_defense(what, defense)
    with executor.join_for_job():
        if before.dry_run:
            return say_estimate([what], defense, output, before, executor)
        outcome = checked_votes(what, defense, None, output, executor)
    say_votes(outcome)
    if output.json:
        print(json.dumps(_as_json(outcome), indent=2))
    else:
        print(f"run_id={outcome.run_id}")
    outcome.error_images.check(outcome.images, what.max_error_rate)
    return 0


def checked_votes(
    what: VotesConfig,
    defense: Defense,
    claims: ClaimsConfig | None,
    output: OutputConfig,
    executor: Executor,
) -> VotesOutcome:
    """Vote on what has no votes yet, after the checks, and tracked where there are claims."""
    plan = open_plan(what, defense, output, executor)
    if (known := found_votes(plan)) is not None:
        return known
    check_plan(plan, output)
    return vote(plan, nullcontext() if claims is None else watched(plan.wanted, claims, output.out))


def _as_json(outcome: VotesOutcome) -> dict[str, Any]:
    facts = {name: value for name, value in vars(outcome).items() if name != "error_images"}
    return {**facts, "faulty": outcome.error_images.to_dict()}


def say_votes(outcome: VotesOutcome) -> None:
    """One line on what was done and what was there already, on standard error."""
    if not outcome.voted:
        line = f"votes of all {outcome.images} images were there already (--overwrite starts again)"
    else:
        rate = outcome.voted / outcome.seconds
        line = (
            f"voted on {outcome.voted} of {outcome.images} images in {outcome.seconds:.1f} s "
            f"({rate:.1f} images/s)"
        )
    print(line, file=sys.stderr)
    if outcome.error_images.count:
        print(
            f"{outcome.error_images.count} images have an error: {outcome.error_images}",
            file=sys.stderr,
        )
