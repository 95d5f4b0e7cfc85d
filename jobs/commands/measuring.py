"""Speed: bench and its parts."""

from typing import Annotated

from cyclopts import App, Parameter

from jobs.bench import BenchConfig
from jobs.bench_certificates import BenchCertificatesConfig
from jobs.bench_control_plane import BenchControlPlaneConfig
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


@bench.command(name="certificates")
def bench_certificates(
    *,
    what: Annotated[
        BenchCertificatesConfig, Parameter(name="*", group="What is measured")
    ] = BenchCertificatesConfig(),  # noqa: B008
) -> int:
    """Measure how fast (synthetic) votes become certificates, beside a plain loop."""
    from jobs.bench_certificates import run_bench_certificates  # noqa: PLC0415

    return run_bench_certificates(what)


@bench.command(name="control-plane")
def bench_control_plane(
    *,
    what: Annotated[
        BenchControlPlaneConfig, Parameter(name="*", group="What is measured")
    ] = BenchControlPlaneConfig(),  # noqa: B008  (frozen)
) -> int:
    """Measure what a job costs besides pixels and network, at any number of images."""
    from jobs.bench_control_plane import run_bench_control_plane  # noqa: PLC0415

    return run_bench_control_plane(what)
