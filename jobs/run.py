"""``patchcert run``: the whole job."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from jobs.certify import report, settle
from jobs.votes import checked_votes, say_votes
from models.errors import JobError, exit_code_of, said_of
from pipeline.cluster.executor import Executor, find_executor
from pipeline.config import ClaimsConfig, ConfigError, EstimateConfig, OutputConfig, VotesConfig
from pipeline.config.flags import Advanced
from pipeline.preflight.checks import require_stores, say_estimate
from pipeline.report.tables import print_summary
from pipeline.runs.defense import Defense
from pipeline.runs.origins import say_defense
from pipeline.runs.resolve import resolve_defense
from pipeline.runs.store import VotesStore
from pipeline.scoring.claims import resolve_claims
from pipeline.scoring.pool import pooled
from pipeline.storage.patterns import PathError, split_range
from pipeline.tracking import tracking_uri


def run(
    *,
    what: VotesConfig,
    claims: ClaimsConfig = ClaimsConfig(),
    output: OutputConfig = OutputConfig(),
    before: EstimateConfig = EstimateConfig(),
    slices: Advanced[int | None] = None,
) -> int:
    """Vote on every image, certify, and log the run: the whole job.

    Args:
        what: What decides the votes.
        claims: What to certify.
        output: Where results go.
        before: Whether to estimate only.
        slices: Cut --data along its number range, such as {000000..000999}, into so many runs, one
            after another, with one summary: for more images than one run should hold.
    """
    executor = find_executor(verbose=output.verbose, no_ray=what.no_ray)
    parts = [what] if slices is None else _cut(what, slices)
    require_stores(what, output)
    defense = resolve_defense(what)
    say_defense(what, defense)
    # What cannot be certified or logged should be known before hours of voting.
    resolve_claims(defense, claims)
    tracking_uri(claims, output.out)
    with executor.join_for_job():
        if before.dry_run:
            return say_estimate(parts, defense, output, before, executor)
        if len(parts) > 1:
            return _run_slices(parts, defense, claims, output, executor)
        outcome = checked_votes(what, defense, claims, output, executor)
        say_votes(outcome)
        store = VotesStore(output.out, outcome.run_id)
        report(store, claims, output, executor, overwrite=what.overwrite)
    outcome.error_images.check(outcome.images, what.max_error_rate)
    return 0


def _cut(what: VotesConfig, slices: int) -> list[VotesConfig]:
    """The requests of the slices.

    Raises:
        ConfigError: The data cannot be cut, or the request is for a part of them.
    """
    if what.limit is not None:
        raise ConfigError(
            f"--limit {what.limit}: of which slice is unknown; leave --slices or --limit out"
        )
    try:
        return [replace(what, data=data) for data in split_range(what.data, slices)]
    except PathError as error:
        raise ConfigError(f"--slices {slices}: {error}") from error


def _run_slices(
    parts: Sequence[VotesConfig],
    defense: Defense,
    claims: ClaimsConfig,
    output: OutputConfig,
    executor: Executor,
) -> int:
    """Bring every slice to its end, also after one that failed, and sum their summaries."""
    done, failed = [], []
    for number, what in enumerate(parts, 1):
        where = f"slice {number} of {len(parts)}, {what.data}"
        print(where, file=sys.stderr, flush=True)
        try:
            outcome = checked_votes(what, defense, claims, output, executor)
            say_votes(outcome)
            store = VotesStore(output.out, outcome.run_id)
            settled = settle(store, claims, output, executor, overwrite=what.overwrite)
            outcome.error_images.check(outcome.images, what.max_error_rate)
        except Exception as error:
            if exit_code_of(error) is None:
                raise
            failed.append(number)
            print(f"patchcert: {where}: {said_of(error)}", file=sys.stderr, flush=True)
        else:
            done.append(settled.certified)
    if failed:
        raise JobError(
            f"{len(failed)} of {len(parts)} slices failed: {', '.join(map(str, failed))}; what the "
            "others stored stays, and the same command goes on from there"
        )
    summary = pooled([certified.summary for certified in done])
    if output.json:
        print(json.dumps(summary, indent=2, sort_keys=True))
    else:
        print_summary(summary, Console(highlight=False), done[0].asked)
        print(f"run_id={summary['run_id']}")
    return 0
