"""Words about the data at a start and in a dry run, before any vote."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from tests.conftest import png, random_images
from tests.in_process import stages_here


@pytest.fixture
def unlabelled(tmp_path):
    """Parquet whose labels have names that are not usual."""
    images = [png(image) for image in random_images(3)]
    table = pa.table({"img": images, "fine_label": [1, 2, 3], "coarse_label": [0, 0, 0]})
    pq.write_table(table, tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


@pytest.mark.parametrize("more", [["--dry-run"], []], ids=["dry run", "run"])
@pytest.mark.parametrize("command", ["run", "votes"])
def test_labels_are_spoken_of_first(
    command, more, unlabelled, tiny_weights, tmp_path, monkeypatch, capsys
):
    stages = stages_here(monkeypatch)
    given = ["--data", str(unlabelled), "--weights", str(tiny_weights), "--threads", "1"]
    given += ["--out", str(tmp_path / "out"), *more, *(["--mlflow", "none"] * (command == "run"))]
    for column in ([], ["--label-column", "fine_label"]):
        assert main([command, *given, *column]) == 0
        said = capsys.readouterr().err
        assert "images listed: 3, of 1 parquet files" in said
        known = "of 3 of 3 images: classes 1 to 3" if column else "of 0 of 3 images; no column"
        assert f"labels known:  {known}" in said
        assert column or "give --label-column NAME (columns: fine_label: int64" in said
        if not more:
            assert said.index("labels known") < said.index("voted on 3 of 3")
    assert bool(stages.units) == (not more)
