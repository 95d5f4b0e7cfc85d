"""``patchcert run``: the whole job."""

from jobs.certify import report
from jobs.votes import say_votes
from pipeline.config import ClaimsConfig, EstimateConfig, OutputConfig, VotesConfig
from pipeline.preflight.checks import preflight, require_stores, say_estimate
from pipeline.runs.resolve import resolve_defense
from pipeline.runs.store import VotesStore
from pipeline.scoring.claims import resolve_claims
from pipeline.tracking import tracking_uri, watched
from pipeline.voting.plan import count_votes


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
    # What cannot be certified or logged should be known before hours of voting.
    resolve_claims(defense, claims)
    tracking_uri(claims, output.out)
    if before.dry_run:
        return say_estimate(what, defense, output, before)
    outcome = count_votes(
        what,
        defense,
        output,
        preflight(what, defense, claims, output),
        lambda plan: watched(plan.wanted, claims, output.out),
    )
    say_votes(outcome)
    report(VotesStore(output.out, outcome.run_id), claims, output, overwrite=what.overwrite)
    outcome.faulty.check(outcome.images, what.max_error_rate)
    return 0
