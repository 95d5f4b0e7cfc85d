"""Curves of a training in MLflow: whatever MLflow does, the training goes on."""

from pipeline.tracking import quiet_client
from pipeline.training.curves import Curves
from tests.pipeline.training.toy import toy_place, toy_recipe


def test_epochs_that_mlflow_missed_are_logged_once_it_answers(tmp_path, capsys):
    broken = tmp_path / "out" / "mlflow.db"
    broken.parent.mkdir()
    broken.touch()
    curves = Curves(toy_recipe(tmp_path), toy_place(tmp_path, mlflow=None))
    curves.epoch(0, {"loss": 2.0})
    said = capsys.readouterr().err
    assert said.count("patchcert: not logged: ") == 2
    assert f"`rm {broken}`" in said
    broken.unlink()
    curves.epoch(1, {"loss": 1.0})
    curves.end(weights="w.safetensors")
    assert capsys.readouterr().err == ""
    client = quiet_client(f"sqlite:///{broken}")
    (run,) = client.search_runs([client.get_experiment_by_name("patchcert-training").experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert {one.step: one.value for one in history} == {0: 2.0, 1: 1.0}
    assert run.info.status == "FINISHED"
    assert run.data.tags["patchcert.weights"] == "w.safetensors"
