"""``patchcert sweep``: runs over a grid of settings."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from jobs.certify import settle
from jobs.votes import checked_votes, say_votes
from models.errors import exit_code_of, said_of
from pipeline.cluster.executor import Executor, find_executor
from pipeline.config import ClaimsConfig, OutputConfig, VotesConfig
from pipeline.preflight.checks import require_stores
from pipeline.report.tables import print_sweep
from pipeline.runs.resolve import resolve_defense
from pipeline.runs.store import StoreError, VotesStore
from pipeline.scoring.claims import resolve_claims
from pipeline.sweep.config import Axes, FixedConfig, configs_of
from pipeline.sweep.grid import Combination, Origin, forecast, forecast_lines, origins
from pipeline.sweep.table import claims_in, flat, row_of, summary_at
from pipeline.tracking import run_name
from pipeline.tracking.sweeps import TrackedSweep
from pipeline.voting.plan import check_weights_header, plan_each


def sweep(
    *,
    axes: Axes,
    fixed: FixedConfig,
    claims: ClaimsConfig = ClaimsConfig(),
    output: OutputConfig = OutputConfig(),
    dry_run: bool = False,
) -> int:
    """Run every combination of settings that is missing; nested MLflow runs, one table.

    Args:
        axes: Options with several values.
        fixed: Options with one.
        claims: What to certify.
        output: Where results go.
        dry_run: Say which points need votes, and how many; compute nothing.

    Returns:
        0, or 1 if a point failed; the others are brought to their end all the same.

    Raises:
        ConfigError, SourceError, WeightsError, UnknownModelError: A point's request is wrong;
            nothing was computed.
    """
    executor = find_executor(verbose=output.verbose, no_ray=fixed.no_ray)
    configs = configs_of(axes, fixed)
    for weights in dict.fromkeys(config.weights for config in configs):
        require_stores(next(one for one in configs if one.weights == weights), output)
    with ExitStack() as stack:
        stack.enter_context(executor.join_for_job())
        found = origins(_points(configs, claims, output, executor, dry_run=dry_run), output.out)
        if dry_run:
            plan = forecast(found, output.out)
            print(json.dumps(plan, indent=2) if output.json else "\n".join(forecast_lines(plan)))
            return 0
        asked = {name: values for name, values in vars(axes).items() if values is not None}
        tracked = stack.enter_context(
            TrackedSweep(found[0].combination.wanted, asked, claims, output.out)
        )
        rows, failures = _brought_to_end(found, tracked.claims, output, executor, tracked)
        # First said, then logged: a server that has gone must not swallow it.
        _say(rows, failures, axes.varying, output)
        tracked.end([flat(row, claims_in(rows)) for row in rows], failed=any(failures))
    return 1 if any(failures) else 0


def _points(
    configs: Sequence[VotesConfig],
    claims: ClaimsConfig,
    output: OutputConfig,
    executor: Executor,
    *,
    dry_run: bool,
) -> list[Combination]:
    """The points of a sweep, each of which can be answered."""
    requests = [(config, resolve_defense(config)) for config in configs]
    for _, defense in requests:
        resolve_claims(defense, claims)
        if dry_run:
            check_weights_header(defense)
    return [
        Combination(config=plan.config, defense=plan.defense, wanted=plan.wanted)
        for plan in plan_each(requests, output, executor, keep=not dry_run)
    ]


def _brought_to_end(
    found: Sequence[Origin],
    claims: ClaimsConfig,
    output: OutputConfig,
    executor: Executor,
    tracked: TrackedSweep,
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row a point, and why it has no figures; points with votes of their own come first."""
    done: dict[int, tuple[dict[str, Any], str]] = {}
    failed: set[str] = set()
    order = sorted(range(len(found)), key=lambda number: found[number].stride is not None)
    for count, number in enumerate(order, 1):
        answer = found[number]
        where = f"point {count} of {len(found)}"
        origin = "" if answer.stride is None else f": from the votes of {answer.run_id}"
        name = run_name(answer.combination.wanted)
        print(f"{where}: {name}{origin}", file=sys.stderr, flush=True)
        failure = ""
        try:
            if answer.stride is not None and answer.run_id in failed:
                raise StoreError(f"run {answer.run_id}, whose votes it needs, failed")
            row = _settled(answer, claims, output, executor, tracked)
        except Exception as error:
            if exit_code_of(error) is None:
                raise
            row, failure = row_of(answer, None, None), said_of(error)
            if answer.stride is None:
                failed.add(answer.run_id)
            print(f"patchcert: {where}: {failure}", file=sys.stderr, flush=True)
        done[number] = row, failure
    rows, failures = zip(*(done[number] for number in range(len(found))), strict=True)
    return list(rows), list(failures)


def _settled(
    answer: Origin,
    claims: ClaimsConfig,
    output: OutputConfig,
    executor: Executor,
    tracked: TrackedSweep,
) -> dict[str, Any]:
    """Bring one point to its end: its row."""
    point, store = answer.combination, VotesStore(output.out, answer.run_id)
    if answer.stride is not None:
        certified = settle(store, claims, output, executor, stride=answer.stride).certified
        counted = certified.manifest.execution
        assert counted.error_images is not None, "only finished runs answer a finer stride"
        counted.error_images.check(counted.images, point.config.max_error_rate)
        summary = summary_at(certified.summary, certified.manifest, answer.stride)
        tracked.answered(certified.manifest, point.wanted, summary, answer.stride)
        return row_of(answer, certified.manifest, summary)
    outcome = checked_votes(point.config, point.defense, claims, output, executor)
    say_votes(outcome)
    overwrite = point.config.overwrite
    certified = settle(store, claims, output, executor, overwrite=overwrite).certified
    tracked.adopt(store.run_id)
    outcome.error_images.check(outcome.images, point.config.max_error_rate)
    summary = summary_at(certified.summary, certified.manifest, None)
    return row_of(answer, certified.manifest, summary)


def _say(
    rows: Sequence[Mapping[str, Any]],
    failures: Sequence[str],
    varying: Sequence[str],
    output: OutputConfig,
) -> None:
    if output.json:
        said = [
            {**row, "failure": failure or None} for row, failure in zip(rows, failures, strict=True)
        ]
        print(json.dumps(said, indent=2))
        return
    print_sweep(rows, failures, varying, claims_in(rows), Console(highlight=False))
    ids = dict.fromkeys(
        row["run_id"] for row, failure in zip(rows, failures, strict=True) if not failure
    )
    print(f"run_id={' '.join(ids)}")
