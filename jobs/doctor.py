"""``patchcert doctor``: the checks before a job, alone."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from typing import Annotated

from cyclopts import Parameter

from pipeline.cluster.executor import find_executor
from pipeline.cluster.session import check_session
from pipeline.config import ClaimsConfig, OutputConfig, VotesConfig
from pipeline.preflight.findings import Check, Finding, look_at
from pipeline.preflight.stores import probe_output, reach_stores
from pipeline.preflight.tracker import reach_tracker
from pipeline.preflight.workers import (
    check_budget,
    check_token,
    try_bits_on_worker,
    try_weights_on_worker,
)
from pipeline.runs.defense import Defense
from pipeline.runs.numerics import Machine, Numerics, resolve_numerics
from pipeline.runs.resolve import resolve_defense
from pipeline.sources.listing import find_files


def doctor(
    *,
    what: VotesConfig,
    claims: ClaimsConfig = ClaimsConfig(),
    output: OutputConfig = OutputConfig(),
    bits: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Check all that a run needs: stores, data, output, MLflow, token, cluster, weights.

    Args:
        what: Settings of the votes.
        claims: Claims and their tracking.
        output: Place of the results.
        bits: Also look on a worker, at every slot of a microbatch and beside every kind of
            neighbour, whether anything but what a view shows changes a bit of its logits.

    Returns:
        1 if a check fails.
    """
    found = []
    for finding in _findings(what, claims, output, bits=bits):
        found.append(finding)
        if not output.json:
            print(finding, flush=True)
    wrong = sum(not finding.ok for finding in found)
    if output.json:
        checks = [{**vars(finding), "caution": finding.caution} for finding in found]
        print(json.dumps({"ok": not wrong, "checks": checks}, indent=2))
    else:
        cautions = sum(finding.caution for finding in found)
        said = f"{wrong} of the checks failed" if wrong else "all checks hold"
        print(said + (f", {cautions} with a warning" if cautions else ""))
    return 1 if wrong else 0


def _findings(
    what: VotesConfig, claims: ClaimsConfig, output: OutputConfig, *, bits: bool
) -> Iterator[Finding]:
    executor = find_executor(verbose=output.verbose)
    stores = list(
        look_at([("stores", lambda: reach_stores([what.data, what.weights, output.out]))])
    )
    yield from stores
    if not all(finding.ok for finding in stores):
        return  # every other check would wait for them too

    @cache
    def defense() -> Defense:
        return resolve_defense(what)

    def weights() -> str:
        network = defense().network
        return f"{network.name}, sha256 {network.weights_sha256[:12]}..."

    @cache
    def machine() -> Machine:
        return executor.probe(what.device, what.accelerator_type)

    def numerics() -> Numerics:
        return resolve_numerics(what, machine(), defense())

    # One Ray for all checks: starting it takes seconds.
    stack = ExitStack()

    @cache
    def joined() -> Mapping[str, float]:
        return stack.enter_context(executor.join())

    checks: list[Check] = [
        ("this machine", check_session),
        ("data", lambda: _files(what)),
        ("output", lambda: probe_output(output.out)),
        ("MLflow", lambda: reach_tracker(claims, output.out)),
        ("token", lambda: check_token(executor.address)),
        ("weights", weights),
        (
            "CPUs and GPUs",  # which the weights do not change
            lambda: check_budget(what, resolve_numerics(what, machine()), joined(), executor),
        ),
        (
            "weights on a worker",
            lambda: try_weights_on_worker(what, defense(), numerics(), executor),
        ),
    ]
    if bits:
        checks.append(("bits", lambda: try_bits_on_worker(what, defense(), numerics(), executor)))
    with stack:
        yield from look_at(checks)


def _files(what: VotesConfig) -> str:
    kind, files = find_files(what.data)
    return f"{len(files):,} files of {kind}, {sum(file.size for file in files) / 2**20:,.1f} MiB"
