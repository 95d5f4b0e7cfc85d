"""Speed: bench and its parts."""

from typing import Annotated

from cyclopts import App, Parameter

from jobs.bench import BenchConfig
from jobs.bench_decide import BenchDecideConfig
from jobs.commands.app import app

bench = App(name="bench", help="Measure speed, as ratios of things timed side by side.")
app.command(bench)


@bench.default
def bench_engine(
    *,
    what: Annotated[BenchConfig, Parameter(name="*", group="What is measured")] = BenchConfig(),  # noqa: B008
) -> int:
    """Votes by dropped tokens beside the plain network, dense smoothing and the published path."""
    from jobs.bench import run_bench  # noqa: PLC0415

    return run_bench(what)


@bench.command(name="decide")
def bench_decide(
    *,
    what: Annotated[BenchDecideConfig, Parameter(name="*", group="What is replayed")] = (
        BenchDecideConfig()  # noqa: B008
    ),
) -> int:
    """Replay a run's votes as --decide would have cast them: the share that it saves."""
    from jobs.bench_decide import run_bench_decide  # noqa: PLC0415

    return run_bench_decide(what)
