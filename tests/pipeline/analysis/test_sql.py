"""Queries over stored runs: what they see, and that they can reach nothing else."""

import json
import os
import subprocess
import sys

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from pipeline.analysis.sql import VIEWS, Answer, QueryError, connect, unwritten
from pipeline.analysis.stored import CLAIMS, DATASETS, RUNS
from tests.conftest import REPOSITORY
from tests.pipeline.analysis.stored_runs import COLUMNS, write_run


def ask(out, query: str) -> pa.Table:
    with connect(str(out)) as connection:
        return Answer(connection, query).table()


def test_views_have_their_columns_even_where_nothing_is_stored(tmp_path, answered):
    expected = {"runs": RUNS, "claims": CLAIMS, **DATASETS}
    assert set(VIEWS) == expected.keys()
    for out in (tmp_path, answered.out):
        for view in VIEWS:
            assert ask(out, f"FROM {view} LIMIT 0").schema.names == expected[view].names
    assert ask(tmp_path, "SELECT count(*) AS n FROM votes")["n"].to_pylist() == [0]


def test_runs_and_claims_are_manifests_and_summaries(answered):
    rows = ask(answered.out, "FROM runs ORDER BY model DESC").to_pylist()
    assert [row["run_id"] for row in rows] == [answered.first, answered.second]
    assert [row["images_with_error"] for row in rows] == [1, 2]
    assert {(row["ablation"], row["size"], row["stride"], row["ablations"]) for row in rows} == {
        ("column", 19, 10, 23)
    }
    assert all(row["complete"] and row["started"].year == 2026 for row in rows)
    for run_id in (answered.first, answered.second):
        summary = json.loads((answered.out / "summary" / f"run_id={run_id}.json").read_text())
        (run,) = ask(answered.out, f"FROM runs WHERE run_id = '{run_id}'").to_pylist()
        assert run["plain_accuracy"] == summary["plain_accuracy"]["value"]
        assert run["smoothed_accuracy"] == summary["smoothed_accuracy"]["value"]
        claims = ask(answered.out, f"FROM claims WHERE run_id = '{run_id}'").to_pylist()
        assert len(claims) == len(summary["certified_accuracy"]) == 6
        stored = {(e["threat"], e["rule"]): e for e in summary["certified_accuracy"]}
        for claim in claims:
            entry = stored[claim["threat"], claim["rule"]]
            assert (claim["accuracy"], claim["hits"]) == (entry["value"], entry["hits"])


def test_a_run_in_the_making_shows_what_it_has(tmp_path):
    run_id = write_run(tmp_path, np.ones((6, len(COLUMNS)), int), [1] * 6)
    (tmp_path / "votes" / f"run_id={run_id}" / "unit-00001.parquet").unlink()
    (tmp_path / "votes" / f"run_id={run_id}" / ".unit-00001.parquet.tmp").write_text("half")
    (tmp_path / "votes" / "run_id=r0").mkdir()  # begun before its manifest
    assert ask(tmp_path, "SELECT complete FROM runs")["complete"].to_pylist() == [False]
    assert ask(tmp_path, "SELECT count(*) AS n FROM votes")["n"].to_pylist() == [4]


def test_runs_of_all_settings_share_one_view(tmp_path):
    sets = np.full((2, len(COLUMNS), 2), -1)
    sets[0, :, 0] = 3
    write_run(tmp_path, np.ones((2, len(COLUMNS)), int), [1, 2])
    voting = {"theta": 0.3, "gaps": True}
    data = {"kind": "tar", "several_labels": True}
    write_run(tmp_path, sets, [[1, 3], []], voting=voting, data=data)
    query = "SELECT theta, vote_sets, gaps, labels FROM votes JOIN runs USING (run_id)"
    by_theta = ask(tmp_path, f"{query} ORDER BY theta NULLS FIRST, image_id").to_pylist()
    assert [row["theta"] for row in by_theta] == [None, None, 0.3, 0.3]
    assert by_theta[2]["vote_sets"] == [[3]] * len(COLUMNS)
    assert by_theta[2]["gaps"] == [0.5] * len(COLUMNS)
    assert [row["labels"] for row in by_theta] == [None, None, [1, 3], []]


ESCAPES = (
    "FROM read_text('{file}')",
    "FROM read_blob('{file}')",
    "FROM read_csv('{file}')",
    "FROM read_json('{file}')",
    "FROM sniff_csv('{file}')",
    "FROM '{file}'",
    "FROM read_csv('/dev/stdin')",
    "FROM read_parquet('{votes}')",
    "FROM parquet_metadata('{votes}')",
    "FROM parquet_kv_metadata('{votes}')",
    "FROM '{votes}'",
    "FROM glob('/*')",
    "FROM read_csv('http://127.0.0.1:9/x.csv')",
    "FROM read_parquet('s3://bucket/x.parquet')",
    "EXPLAIN ANALYZE FROM read_text('{file}')",
    "PIVOT (FROM read_text('{file}')) ON filename USING count(*)",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{file}'')'))",
    "FROM query('FROM read_text(''{file}'')')",
    "COPY (SELECT 1) TO '{new}'",
    "COPY (SELECT 1) TO ':memory:'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{new}'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO ':memory:'",
    "WITH t AS (COPY (SELECT 1) TO '{new}') SELECT 1",
    "EXPORT DATABASE '{new}'",
    "IMPORT DATABASE '{new}'",
    "ATTACH '{new}' AS other",
    "ATTACH ':memory:' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{new}'",
    "FROM duckdb_extensions()",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET enable_external_access",
    "SET temp_directory = '{new}'",
    "SET python_enable_replacements = true",
    "SET GLOBAL allowed_directories = ['/']",
    "PRAGMA enable_profiling",
    "PRAGMA database_list",
    "CALL enable_logging(storage = 'file', storage_path = '{new}')",
    "FROM enable_logging('QueryLog', storage = 'file', storage_config = {{'path': '{new}'}})",
    "FROM enable_profiling()",
    "CREATE TABLE t AS SELECT 1",
    "CREATE SECRET s (TYPE s3)",
    "CREATE PERSISTENT SECRET s (TYPE s3)",
    "CREATE OR REPLACE VIEW votes AS SELECT 1",
    "DROP VIEW votes",
    "DELETE FROM votes",
    "INSERT INTO votes SELECT * FROM votes",
    "UPDATE votes SET label = 1",
    "BEGIN",
    "CHECKPOINT",
    "VACUUM",
    "USE memory",
    "SELECT 1; COPY (SELECT 1) TO '{new}'",
    "SELECT getenv('HOME')",
    "FROM answered",
    "FROM python_object",
    "FROM arrow_scan(1, 2, 3)",
    "FROM arrow_scan(1::POINTER, 2::POINTER, 3::POINTER)",
    "FROM pandas_scan(1)",
    "",
    "-- nothing",
)


def files_of(out) -> list:
    """All files but what a reader remembers of the votes that it has proven."""
    return sorted(path for path in out.rglob("*") if path.name != ".proof.json")


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_escape(escape, answered, tmp_path, monkeypatch):
    python_object = pa.table({"a": [1]})
    file = tmp_path / "file.csv"
    file.write_text("a,b\n1,2\n")
    monkeypatch.chdir(tmp_path)
    before = files_of(answered.out)
    votes = next(answered.out.glob("votes/*/*.parquet"))
    with pytest.raises(QueryError):
        ask(answered.out, escape.format(file=file, votes=votes, new=tmp_path / "new"))
    assert python_object.num_rows == 1
    assert os.listdir(tmp_path) == ["file.csv"]
    assert files_of(answered.out) == before


def test_the_sandbox_is_on(answered):
    names = ("allowed_paths", "allowed_directories", "enable_external_access", "temp_directory")
    settings = ask(answered.out, "SELECT name, value FROM duckdb_settings()").to_pylist()
    found = {row["name"]: row["value"] for row in settings}
    assert [found[name] for name in names] == ["[]", "[]", "false", ""]
    assert found["lock_configuration"] == "true"
    with connect(str(answered.out)) as connection, pytest.raises(duckdb.Error):
        connection.execute("SET enable_external_access = true")


def test_messages_say_what_to_do(answered, tmp_path):
    for query, said in (
        (
            "FROM certificate",
            "[(]did you mean certificates[?][)]; the views are runs, claims, votes",
        ),
        ("FROM nonsense", "there is no view nonsense; the views are"),
        ("SELECT imge_id FROM images", '"image_id"'),
        ("SELECT FROM WHERE", "syntax error"),
        ("SELECT 1; SELECT 2", "2 statements: ask one query at a time"),
        ("DROP VIEW votes", "DROP: only queries"),
        ("FROM read_text('/etc/hostname')", "A query sees the views"),
        ("SELECT image_id::INT FROM images", "Could not convert"),
    ):
        with pytest.raises(QueryError, match=f"(?is){said}"):
            ask(answered.out, query)
    assert unwritten(str(answered.out), "FROM votes, claims, detection") == []
    (said,) = unwritten(str(tmp_path), "SELECT * FROM Certificates")
    assert "certificates is empty" in said
    assert "patchcert certify" in said


@pytest.mark.parametrize(
    "query",
    ["SHOW TABLES", "SUMMARIZE images", "PIVOT claims ON rule USING count(*)", "VALUES (1)"],
)
def test_every_way_to_ask(query, answered):
    assert ask(answered.out, query).num_rows > 0


def test_a_scan_cut_short_ends_the_program_quietly(answered):
    code = (
        "import sys\nfrom jobs.cli import main\n"
        f"code = main(['sql', 'FROM votes LIMIT 1', '--out', {str(answered.out)!r}, '--csv'])\n"
        "assert not {'torch', 'ray', 'mlflow'} & set(sys.modules)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2
