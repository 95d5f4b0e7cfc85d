"""Speed: bench and its parts."""

from typing import Annotated

from cyclopts import App, Parameter

from jobs.bench import BenchConfig
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


