"""Questions to stored runs: show, sql, compare, classes, heatmap, report."""

from typing import Annotated

from cyclopts import Parameter

from jobs.classes import ClassesConfig
from jobs.commands.app import app
from jobs.compare import CompareConfig
from jobs.heatmap import HeatmapConfig
from jobs.report import ReportConfig
from jobs.show import ShowConfig
from jobs.sql import SqlConfig


@app.command
def show(*, what: Annotated[ShowConfig, Parameter(name="*", group="What is drawn")]) -> int:
    """Draw an image, some of its ablations with their tokens, and the worst patch."""
    from jobs.show import run_show  # noqa: PLC0415

    return run_show(what)


@app.command
def sql(
    query: str | None = None,
    /,
    *,
    how: Annotated[SqlConfig, Parameter(name="*", group="Output")] = SqlConfig(),  # noqa: B008
) -> int:
    """Ask stored results a question in SQL (DuckDB), over all runs at once.

    Args:
        query: One query over the views runs, claims, votes, images, certificates, detection,
            locations, witnesses and attacks, such as "from runs"; left out, it is read from
            standard input.
        how: Where the results lie and how the answer is printed.
    """
    from jobs.sql import run_sql  # noqa: PLC0415

    return run_sql(query, how)


@app.command
def compare(
    first: str,
    second: str,
    /,
    *,
    how: Annotated[CompareConfig, Parameter(name="*", group="Output")] = CompareConfig(),  # noqa: B008
) -> int:
    """Compare two runs over the same images: paired differences, McNemar's test, equal votes.

    Args:
        first: A run, or the beginning of its id.
        second: The other; differences are the second minus the first.
        how: Where the results lie and how the answer is printed.
    """
    from jobs.compare import run_compare  # noqa: PLC0415

    return run_compare(first, second, how)


@app.command
def classes(
    *,
    what: Annotated[ClassesConfig, Parameter(name="*", group="What is shown")] = ClassesConfig(),  # noqa: B008
) -> int:
    """Show the accuracies of each class with their intervals."""
    from jobs.classes import run_classes  # noqa: PLC0415

    return run_classes(what)


@app.command
def heatmap(
    *,
    what: Annotated[HeatmapConfig, Parameter(name="*", group="What is shown")] = HeatmapConfig(),  # noqa: B008
) -> int:
    """Draw where a patch leaves most images uncertified, and store the numbers."""
    from jobs.heatmap import run_heatmap  # noqa: PLC0415

    return run_heatmap(what)


@app.command
def report(
    *runs: str,
    what: Annotated[ReportConfig, Parameter(name="*", group="Output")],
) -> int:
    """Write one or several runs as one HTML page, whole in itself; log it to MLflow.

    Args:
        runs: Runs, or the beginnings of their ids; may be left out where --out holds one only. The
            others are compared with the first.
        what: What the page holds, and where it goes.
    """
    from jobs.report import run_report  # noqa: PLC0415

    return run_report(runs, what)
