"""``patchcert run``: the whole job."""

from jobs.certify import report
from jobs.votes import checked_votes, say_votes
from pipeline.cluster.executor import find_executor
from pipeline.config import ClaimsConfig, EstimateConfig, OutputConfig, VotesConfig
from pipeline.preflight.checks import require_stores, say_estimate
from pipeline.runs.origins import say_defense
from pipeline.runs.resolve import resolve_defense
from pipeline.runs.store import VotesStore
from pipeline.scoring.claims import resolve_claims
from pipeline.tracking import tracking_uri


def run(
    *,
    what: VotesConfig,
    claims: ClaimsConfig = ClaimsConfig(),
    output: OutputConfig = OutputConfig(),
    before: EstimateConfig = EstimateConfig(),
) -> int:
    """Vote on every image, certify, and log the run: the whole job."""
    executor = find_executor(verbose=output.verbose)
    require_stores(what, output)
    defense = resolve_defense(what)
    say_defense(what, defense)
    # What cannot be certified or logged should be known before hours of voting.
    resolve_claims(defense, claims)
    tracking_uri(claims, output.out)
    with executor.join_for_job():
        if before.dry_run:
            return say_estimate(what, defense, output, before, executor)
        outcome = checked_votes(what, defense, claims, output, executor)
        say_votes(outcome)
        store = VotesStore(output.out, outcome.run_id)
        report(store, claims, output, executor, overwrite=what.overwrite)
    outcome.error_images.check(outcome.images, what.max_error_rate)
    return 0
