"""``patchcert run``: the whole job."""

from jobs.certify import report
from jobs.votes import checked_votes, say_votes
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
    require_stores(what, output)
    defense = resolve_defense(what)
    say_defense(what, defense)
    # What cannot be certified or logged should be known before hours of voting.
    resolve_claims(defense, claims)
    tracking_uri(claims, output.out)
    if before.dry_run:
        return say_estimate(what, defense, output, before)
    outcome = checked_votes(what, defense, claims, output)
    say_votes(outcome)
    report(VotesStore(output.out, outcome.run_id), claims, output, overwrite=what.overwrite)
    outcome.error_images.check(outcome.images, what.max_error_rate)
    return 0
