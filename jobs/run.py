"""``patchcert run``: the whole job. Also ``python -m jobs.run``, for ``ray job submit``."""

import sys
from dataclasses import replace

from jobs.certify import report
from jobs.votes import say_votes
from pipeline.claims import questions_of
from pipeline.config import ClaimsConfig, EstimateConfig, OutputConfig, VotesConfig
from pipeline.curtailing import curtailment_of
from pipeline.flow import count_votes
from pipeline.preflight.checks import demand_stores, preflight, say_estimate
from pipeline.resolve import resolve_voter
from pipeline.store import VotesStore
from pipeline.tracking import tracking_uri, watched


def run_all(
    what: VotesConfig,
    claims: ClaimsConfig,
    output: OutputConfig,
    asked: EstimateConfig = EstimateConfig(),  # noqa: B008  (frozen)
) -> int:
    """Vote, certify, log, report."""
    demand_stores(what, output)
    voter = resolve_voter(what)
    # What cannot be certified or logged should be known before hours of voting.
    questions = questions_of(voter, claims)
    if what.decide:
        voter = replace(voter, curtailment=curtailment_of(questions))
    tracking_uri(claims, output.out)
    if asked.dry_run:
        return say_estimate(what, voter, output, asked)
    outcome = count_votes(
        what,
        voter,
        output,
        preflight(what, voter, claims, output),
        lambda plan: watched(plan.wanted, claims, output.out),
    )
    say_votes(outcome)
    report(VotesStore(output.out, outcome.run_id), claims, output, overwrite=what.overwrite)
    outcome.faulty.check(outcome.images, what.max_error_rate)
    return 0


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["run", *sys.argv[1:]]))
