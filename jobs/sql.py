"""``patchcert sql``: a query over all stored runs."""

import sys
from dataclasses import dataclass

from cyclopts import Parameter
from rich.console import Console

from pipeline import storage
from pipeline.config import ConfigError, at_least
from pipeline.storage import tables as rendering

_TERMINAL_ROWS = 40


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SqlConfig:
    """Options of an answer.

    Attributes:
        out: Folder of all results, local or s3://.
        rows: Most rows of the table [40 on a terminal, all elsewhere].
        csv: Print CSV, every row.
        json: Print a JSON array of objects, every row.
        parquet: Write every row to this Parquet file.
    """

    out: str = "out"
    rows: int | None = None
    csv: bool = False
    json: bool = False
    parquet: str | None = None

    def __post_init__(self) -> None:
        at_least(1, rows=self.rows)
        if self.csv + self.json + (self.parquet is not None) + (self.rows is not None) > 1:
            raise ConfigError("--csv, --json, --parquet, --rows: choose one of them")


def sql(query: str | None = None, /, *, how: SqlConfig = SqlConfig()) -> int:
    """Ask stored results a question in SQL (DuckDB), over all runs at once.

    Args:
        query: One query over the views runs, claims, votes, images, certificates, detection,
            locations, witnesses and attacks, such as "from runs"; left out, it is read from
            standard input.
        how: Where the results lie and how the answer is printed.

    Raises:
        ConfigError: There is none, or more than one, or DuckDB refuses it, or there is no folder.
        ManifestError: A run's manifest contradicts its id.
    """
    # DuckDB: --help must not wait for it.
    from pipeline.analysis.sql import Answer, connect, unwritten  # noqa: PLC0415
    from pipeline.report.rows import print_rows  # noqa: PLC0415

    if query is None and sys.stdin.isatty():
        raise ConfigError('give a query, such as "from runs"; docs/cookbook.md has more')
    query = sys.stdin.read() if query is None else query
    if not query.strip():
        raise ConfigError('the query is empty: give one, such as "from runs"')
    if not storage.exists(how.out):
        raise ConfigError(
            f"--out {how.out}: there is no such folder; `patchcert run` writes results there"
        )
    with connect(how.out) as connection:
        answer = Answer(connection, query)
        if how.csv:
            rendering.write_csv(answer.schema, answer.batches(), sys.stdout)
        elif how.json:
            rendering.write_json(answer.batches(), sys.stdout)
        elif how.parquet is not None:
            rendering.write_parquet(how.parquet, answer.table())
        else:
            terminal = sys.stdout.isatty()
            # A pipe has no width to keep to.
            console = Console(highlight=False, width=None if terminal else 100_000)
            limit = how.rows or (_TERMINAL_ROWS if terminal else None)
            more = print_rows(answer.schema, answer.batches(), console, limit)
            if more:
                said = f"The first {limit} rows; there are more: --rows N, --csv, --json, --parquet"
                print(said, file=sys.stderr)
    for line in unwritten(how.out, query):
        print(f"patchcert: {line}", file=sys.stderr)
    return 0
