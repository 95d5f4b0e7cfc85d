"""``patchcert sql``, ``compare``, ``classes`` and ``heatmap`` as a user meets them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from models.views.ablations import Ablation
from pipeline.config import ClaimsConfig
from pipeline.runs.store import VotesStore
from pipeline.scoring.certify import certify_votes
from tests.conftest import REPOSITORY

sys.path.append(str(REPOSITORY / "tests/pipeline/questions"))
from tests.pipeline.analysis.stored_runs import write_run

COARSE = Ablation(kind="column", size=4, stride=2, height=32, width=32, pixel_scale=7)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(out, ids) of two certified runs over the same 50 images, one of them unreadable."""
    out, ids = tmp_path_factory.mktemp("questions") / "out", []
    truth = np.random.default_rng(0).integers(0, 3, 50)
    for seed, model in enumerate(("one", "two")):
        rng = np.random.default_rng(seed)
        noise = rng.random((50, len(COARSE))) < 0.8 * rng.random((50, 1))
        votes = np.where(noise, rng.integers(0, 3, noise.shape), truth[:, None])
        ids.append(
            write_run(
                out, votes, truth.tolist(), model=model, ablation=COARSE, classes=3, errors=(4,)
            )
        )
        certify_votes(VotesStore(str(out), ids[-1]), ClaimsConfig(patch=(2, 5)))
    return str(out), ids


def test_sql(runs, tmp_path, capsys):
    out, ids = runs
    query = "SELECT run_id, count(*) AS images FROM images GROUP BY ALL ORDER BY ALL"
    assert main(["sql", query, "--out", out]) == 0
    table = capsys.readouterr()
    assert table.err == ""
    assert all(run_id in table.out for run_id in ids)
    assert main(["sql", query, "--out", out, "--json"]) == 0
    expected = [{"run_id": run_id, "images": 50} for run_id in sorted(ids)]
    assert json.loads(capsys.readouterr().out) == expected
    assert main(["sql", query, "--out", out, "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == f"{min(ids)},50"
    file = tmp_path / "answer.parquet"
    assert main(["sql", query, "--out", out, "--parquet", str(file)]) == 0
    assert pq.read_table(file).to_pylist() == expected
    assert main(["sql", "FROM images", "--out", out, "--rows", "3"]) == 0
    captured = capsys.readouterr()
    assert "The first 3 rows; there are more" in captured.err
    assert captured.out.count("shard-000/") == 3


def test_sql_reads_a_query_from_standard_input(runs):
    done = subprocess.run(
        [sys.executable, "-m", "jobs", "sql", "--out", runs[0], "--csv"],
        input="SELECT count(*) AS n FROM detection",
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    assert done.stdout == "n\n0\n"
    assert "detection is empty" in done.stderr
    assert "patchcert certify --detect" in done.stderr


def test_compare(runs, capsys):
    out, (first, second) = runs
    assert main(["compare", first[:9], second[:9], "--out", out]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines()[2:])) <= 80
    for said in (first, second, "50 images", "smoothed", "5x5 px", "McNemar", "first 1, second 1"):
        assert said in text
    assert main(["compare", first, second, "--out", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["first"], found["second"], found["images"]) == (first, second, 50)
    assert [q["what"] for q in found["questions"]] == ["plain", "smoothed"] + 4 * ["certified"]
    for q in found["questions"]:
        assert q["difference"] == pytest.approx(q["second"] - q["first"])
        assert q["low"] <= q["difference"] <= q["high"]
        assert 0 <= q["p_value"] <= 1


def test_classes(runs, capsys):
    out, (first, _) = runs
    assert main(["classes", "--run-id", first, "--out", out, "--patch", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"run_id={first}"
    assert "1 images with errors count as wrong" in lines[-2]
    assert main(["classes", "--run-id", first, "--out", out, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["classes"]
    assert [row["label"] for row in rows] == [0, 1, 2]
    assert sum(row["images"] for row in rows) == 50
    assert sum(row["images_with_error"] for row in rows) == 1
    worst = ["classes", "--run-id", first, "--out", out, "--sort", "worst", "--json"]
    assert main([*worst, "--patch", "5"]) == 0
    shares = [
        q["value"]
        for row in json.loads(capsys.readouterr().out)["classes"]
        for q in row["questions"]
        if (q["what"], q.get("threat"), q.get("rule")) == ("certified", "5x5", "exact")
    ]
    assert shares == sorted(shares)


def test_classes_keep_to_the_terminal(runs, capsys, monkeypatch):
    out, (first, _) = runs
    ask = ["classes", "--run-id", first, "--out", out]
    for width, intervals in ((100, True), (50, False)):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(ask) == 0
        said = capsys.readouterr().out
        assert "…" not in said
        assert ("(95 % interval)" in said.splitlines()[0]) == intervals
    assert main([*ask, "--rule", "exat"]) == 2
    assert "did you mean exact?" in capsys.readouterr().err


def test_heatmap(runs, capsys):
    out, (first, _) = runs
    assert main(["heatmap", "--run-id", first, "--out", out, "--patch", "5", "2x8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"run_id={first}"
    places = dict(line.split(maxsplit=1) for line in lines if line.startswith("picture"))
    assert Path(places["picture:"]).read_bytes().startswith(b"\x89PNG")
    assert Path(places["picture:"]).name == f"run_id={first}.heatmap-5x5-2x8.png"
    assert sum(line.startswith("locations:") for line in lines) == 2
    query = "SELECT threat, count(*) AS n, max(x) AS x FROM locations GROUP BY ALL ORDER BY ALL"
    assert main(["sql", query, "--out", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"threat": "2x8", "n": 25, "x": 24},
        {"threat": "5x5", "n": 28, "x": 27},
    ]
    # The default patches are those of the grid.
    assert main(["heatmap", "--run-id", first, "--out", out]) == 0
    assert "4x4 px" in capsys.readouterr().out


def test_certify_draws_a_heat_map_of_what_it_was_asked(tmp_path, capsys):
    votes = np.random.default_rng(0).integers(0, 2, (8, len(COARSE)))
    run_id = write_run(tmp_path, votes, [0] * 8, ablation=COARSE, classes=3)
    certify = ["certify", "--out", str(tmp_path), "--run-id", run_id[:5], "--mlflow", "none"]
    assert main([*certify, "--patch", "2", "area:9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    picture = tmp_path / "summary" / f"run_id={run_id}.heatmap.png"
    assert f"heat map:     {picture}" in lines
    locations = tmp_path / "locations" / f"run_id={run_id}"
    assert [path.name for path in locations.iterdir()] == ["2x2.parquet"]
    drawn = picture.read_bytes()
    picture.write_bytes(b"kept where nothing new is asked")
    assert main([*certify, "--patch", "2"]) == 0
    assert picture.read_bytes() == b"kept where nothing new is asked"
    picture.unlink()
    assert main([*certify, "--patch", "2"]) == 0
    assert picture.read_bytes() == drawn
    assert main([*certify, "--patch", "5"]) == 0
    assert {path.name for path in locations.iterdir()} == {"2x2.parquet", "5x5.parquet"}
    drawn, before = picture.read_bytes(), drawn
    assert drawn != before
    # Other patches make another picture.
    assert main(["heatmap", "--out", str(tmp_path), "--run-id", run_id[:5], "--patch", "3"]) == 0
    assert picture.read_bytes() == drawn
    assert picture.with_name(f"run_id={run_id}.heatmap-3x3.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sql", "FROM images; FROM runs"], "2 statements"),
        (["sql", " "], "the query is empty"),
        (["sql", "FROM imges"], "did you mean images?"),
        (["sql", "FROM images", "--csv", "--json"], "choose one of them"),
        (["sql", "FROM images", "--rows", "0"], "--rows 0"),
        (["compare", "r0000", "r1111"], "there is no such run"),
        (["classes"], "holds 2 runs"),
        (["classes", "--patch", "much"], "write 32 (a square)"),
        (["heatmap", "--patch", "0"], "must be at least 1"),
        (["heatmap"], "holds 2 runs"),
    ],
    ids=" ".join,
)
def test_mistakes_get_one_message_and_code_2(arguments, message, runs, capsys):
    assert main([*arguments, "--out", runs[0]]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("command", ["sql", "classes", "heatmap", "compare"])
def test_a_folder_that_is_not_there(command, tmp_path, capsys):
    more = {"sql": ["FROM runs"], "compare": ["r1", "r2"]}.get(command, [])
    assert main([command, *more, "--out", str(tmp_path / "absent")]) == 2
    assert "patchcert run" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom jobs.cli import main\n"
        "for command in ('sql', 'classes', 'heatmap', 'compare'):\n"
        "    assert main([command, '--help']) == 0\n"
        "heavy = {'torch', 'ray', 'mlflow', 'duckdb', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY, capture_output=True)
