"""``patchcert votes``: images in, votes in Parquet. Also ``python -m jobs.votes``."""

import sys

from pipeline.config import OutputConfig, VotesConfig
from pipeline.flow import VotesOutcome, count_votes
from pipeline.resolve import resolve_voter


def run_votes(what: VotesConfig, output: OutputConfig) -> int:
    """Vote, and say where the votes are."""
    outcome = count_votes(what, resolve_voter(what), output)
    say_votes(outcome)
    print(f"run_id={outcome.run_id}")
    return 0


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


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["votes", *sys.argv[1:]]))
