"""SQL over every run under ``<out>``, in a DuckDB that can see nothing else.

The views are Arrow datasets that Python hands to DuckDB, which itself may open no file, reach no
network, load no extension and change no setting. So nothing that a query says can read beside
``<out>`` or write anywhere, and S3 needs no extension.
"""

import re
from collections.abc import Iterator

import duckdb
import pyarrow as pa

from models.nearest import did_you_mean
from pipeline import storage
from pipeline.analysis.stored import DATASETS, WRITTEN_BY, dataset, folder_of, runs_and_claims
from pipeline.config import ConfigError

VIEWS = ("runs", "claims", *DATASETS)
"""The views that can be queried."""

# Set once the connection is open: given when it opens, DuckDB would let queries write a file of the
# database's own name. The lock comes last and makes it all last.
_SANDBOX = (
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET allow_persistent_secrets = false",
    # No variable of this program is a table.
    "SET python_enable_replacements = false",
    # No spilling to disk either: an answer that does not fit in memory is an error.
    "SET temp_directory = ''",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)

# PIVOT with its values looked up is several statements in one. What else there is of those could
# only change the empty database in memory.
_QUERIES = ("SELECT", "EXPLAIN", "MULTI")

_BATCH_ROWS = 10_000


class QueryError(ConfigError):
    """A query that is not one query, or that DuckDB refuses; the message is DuckDB's own."""


def connect(out: str) -> duckdb.DuckDBPyConnection:
    """A closed DuckDB with one view for each of ``VIEWS``; close it when done.

    Args:
        out: Folder of all results, local or s3://. What has not been written yet is a view without
            a row.

    Raises:
        ManifestError: A run's manifest contradicts its id.
    """
    tables = dict(zip(("runs", "claims"), runs_and_claims(out), strict=True))
    connection = duckdb.connect(":memory:")
    for name in VIEWS:
        connection.register(name, tables[name] if name in tables else dataset(out, name))
    for statement in _SANDBOX:
        connection.execute(statement)
    return connection


class Answer:
    """The rows that answer a query, computed as they are taken.

    Attributes:
        schema: Names and types of the columns.

    Raises:
        QueryError: It is not one query, or DuckDB refuses it.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, query: str) -> None:
        """Run a query.

        Args:
            connection: Of ``connect``.
            query: One SELECT, in DuckDB's SQL; also FROM, WITH, VALUES, PIVOT, DESCRIBE, SUMMARIZE,
                SHOW TABLES and EXPLAIN.
        """
        try:
            statements = connection.extract_statements(query)
            _check_statements([statement.type.name for statement in statements])
            self._reader = connection.sql(query).to_arrow_reader(_BATCH_ROWS)
        except duckdb.Error as error:
            raise QueryError(_explained(error)) from error
        self.schema: pa.Schema = self._reader.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, some thousands at a time, once.

        Raises:
            QueryError: Some row cannot be computed.
        """
        while True:
            try:
                batch = self._reader.read_next_batch()
            except StopIteration:
                return
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                raise QueryError(_explained(error)) from error
            yield batch

    def table(self) -> pa.Table:
        """All rows at once.

        Raises:
            QueryError: As ``batches``.
        """
        return pa.Table.from_batches(self.batches(), self.schema)


def unwritten(out: str, query: str) -> list[str]:
    """Describe the views of a query that nothing has been written for yet."""
    kept_in = {"runs": "votes", "claims": "summary"}
    return [
        f"{name} is empty: nothing of it lies under {out} yet; `{WRITTEN_BY[name]}` writes it"
        for name in VIEWS
        if re.search(rf"\b{name}\b", query, re.IGNORECASE)
        and not storage.exists(folder_of(out, kept_in.get(name, name)))
    ]


def _check_statements(kinds: list[str]) -> None:
    if len(kinds) != 1:
        raise QueryError(f"{len(kinds)} statements: ask one query at a time")
    if kinds[0] not in _QUERIES:
        raise QueryError(
            f"{kinds[0]}: only queries can be asked: SELECT, WITH, FROM, PIVOT, DESCRIBE, EXPLAIN; "
            "no stored result is ever changed, and --csv, --json and --parquet write an answer"
        )


def _explained(error: Exception) -> str:
    """DuckDB's message, and what to do where it speaks of tables and files of its own."""
    text = str(error)
    if isinstance(error, duckdb.PermissionException):
        return f"{text.splitlines()[0]}\nA query sees the views {', '.join(VIEWS)} and nothing else"
    if isinstance(error, duckdb.CatalogException) and text.startswith("Catalog Error: Table with"):
        name = text.split("name ", 1)[1].split(" ", 1)[0]
        hint = did_you_mean(name, VIEWS)
        return f"there is no view {name}{hint and f' ({hint})'}; the views are {', '.join(VIEWS)}"
    return text
