"""``patchcert run``: the whole job. Also ``python -m jobs.run``, for ``ray job submit``."""

import sys

from jobs.certify import report
from jobs.votes import say_votes
from pipeline.config import ClaimsConfig, OutputConfig, VotesConfig
from pipeline.flow import count_votes
from pipeline.reduction import check_claims
from pipeline.resolve import resolve_voter
from pipeline.store import VotesStore
from pipeline.tracking import tracking_uri


def run_all(what: VotesConfig, claims: ClaimsConfig, output: OutputConfig) -> int:
    """Vote, certify, log, report."""
    voter = resolve_voter(what)
    # What cannot be certified or logged should be known before hours of voting.
    check_claims(voter.ablation, claims, randomized=voter.draws is not None)
    tracking_uri(claims, output.out)
    outcome = count_votes(what, voter, output)
    say_votes(outcome)
    report(VotesStore(output.out, outcome.run_id), claims, output, overwrite=what.overwrite)
    return 0


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["run", *sys.argv[1:]]))
