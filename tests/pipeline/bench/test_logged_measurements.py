"""Measurements in MLflow: every number a metric, hardware as tags, nothing unless asked."""

import json

import mlflow
import pytest

from jobs.bench import BenchConfig, log, reach
from pipeline.preflight.findings import CheckError
from pipeline.tracking import quiet_client
from pipeline.tracking.measurements import points_in

RESULT = {
    "engine": {
        "settings": {"size": 19},
        "paces": [
            {"name": "plain network", "dtype": "float32", "images_a_second": 12.5, "share": None},
            {"name": "black tokens", "dtype": "float32", "images_a_second": 0.5, "share": 0.25},
        ],
        "ratios": {"dropping over black tokens, float32": 6.9},
    },
    "pipeline": None,
    "peak_memory_mib": 900.0,
    "hardware": {"cpu": "AMD EPYC", "gpu": None, "versions": {"torch": "2.15"}},
}


def test_every_number_has_a_name():
    found = {point.name: point.value for point in points_in(RESULT["engine"])}
    assert found == {
        "paces/plain network float32/images_a_second": 12.5,
        "paces/black tokens float32/images_a_second": 0.5,
        "paces/black tokens float32/share": 0.25,
        "ratios/dropping over black tokens float32": 6.9,
    }


def test_a_measurement_is_a_run_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # where artifacts of a bare sqlite file go
    uri = f"sqlite:///{tmp_path}/speed.db"
    log("bench tiny", RESULT, BenchConfig())
    assert not (tmp_path / "speed.db").exists(), "nothing is logged unless it is asked for"
    for _ in range(2):
        log("bench tiny", RESULT, BenchConfig(size=19, stride=(1, 16), mlflow=uri))
    assert "logged to MLflow" in capsys.readouterr().err
    client = quiet_client(uri)
    experiment = client.get_experiment_by_name("patchcert-bench").experiment_id
    runs = client.search_runs([experiment])
    assert len(runs) == 2
    assert runs[0].data.tags["hardware.cpu"] == "AMD EPYC"
    assert runs[0].data.params["stride"] == "(1, 16)"
    assert runs[0].data.metrics["peak_memory_mib"] == 900
    mlflow.set_tracking_uri(uri)
    assert len(client.load_table(experiment, "paces.json", [runs[0].info.run_id])) == 2
    path = client.download_artifacts(runs[0].info.run_id, "measurement.json", str(tmp_path))
    with open(path) as stream:
        assert json.load(stream) == RESULT


def test_a_server_that_is_away_is_found_before_measuring():
    with pytest.raises(CheckError):
        reach("http://127.0.0.1:9", "patchcert-bench")
