"""``patchcert votes``: images in, votes in Parquet."""

import json
import sys

from pipeline.config import EstimateConfig, OutputConfig, VotesConfig
from pipeline.preflight.checks import preflight, require_stores, say_estimate
from pipeline.runs.resolve import resolve_defense
from pipeline.voting.plan import VotesOutcome, count_votes


def votes(
    *,
    what: VotesConfig,
    output: OutputConfig = OutputConfig(),
    before: EstimateConfig = EstimateConfig(),
) -> int:
    """Vote on every image and store the votes; resumes what is unfinished."""
    require_stores(what, output)
    defense = resolve_defense(what)
    if before.dry_run:
        return say_estimate(what, defense, output, before)
    outcome = count_votes(what, defense, output, preflight(what, defense, None, output))
    say_votes(outcome)
    if output.json:
        print(json.dumps({**vars(outcome), "faulty": outcome.faulty.to_dict()}, indent=2))
    else:
        print(f"run_id={outcome.run_id}")
    outcome.faulty.check(outcome.images, what.max_error_rate)
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
    if outcome.faulty.count:
        print(f"{outcome.faulty.count} images have an error: {outcome.faulty}", file=sys.stderr)
