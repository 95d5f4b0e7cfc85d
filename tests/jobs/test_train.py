"""`patchcert train` as a user calls it; then `patchcert run` on what it wrote."""

import json
import subprocess
import sys

import mlflow
import pytest

from jobs.cli import main
from models.networks.weights import read_card
from pipeline.sources.reading import read_bytes_of
from tests.pipeline.training.toy import toy_config, toy_recipe, write_shard

ARGUMENTS = [
    *("--epochs", "2", "--batch", "12", "--lr", "2e-3", "--warmup", "2", "--validation", "6"),
    *("--estimate", "6", "--average", "0.7", "--save-as", "float32"),
    *("--device", "cpu", "--threads", "1"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    config = toy_config(folder)
    arguments = ["train", "--data", config.data, "--init", config.init, *ARGUMENTS]
    arguments += ["--no-ray", "--out", str(folder / "out")]
    assert main(arguments) == 0
    return folder, arguments


def test_training_without_ray_and_the_bench_need_little_beside_torch(tmp_path):
    """Packages that examples/bare_gpu.py leaves at home must not be imported on the way."""
    config = toy_config(tmp_path)
    arguments = ["train", "--data", config.data, "--init", config.init, *ARGUMENTS[2:]]
    arguments += ["--no-ray", "--mlflow", "none", "--epochs", "1", "--out", str(tmp_path / "out")]
    # Not pandas: pyarrow looks for it, and does without.
    absent = ["ray", "mlflow", "boto3", "s3fs", "duckdb", "scipy", "matplotlib", "sqlalchemy"]
    code = (
        f"import sys\nsys.modules |= dict.fromkeys({absent})\n"
        "import pipeline.bench.engine, pipeline.bench.end_to_end, jobs.bench\n"
        f"from jobs.cli import main\nsys.exit(main({arguments!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/weights.safetensors").exists()


@pytest.mark.usefixtures("ray_session")
def test_run_takes_the_weights_alone_and_agrees_with_the_estimate(trained, capsys):
    """On the very images that were held out."""
    folder, _ = trained
    recipe = toy_recipe(folder, epochs=2)
    rows = recipe.rows(recipe.held_out)
    samples = {}
    for name, label, data in zip(
        rows["image_id"].to_pylist(),
        rows["label"].to_pylist(),
        read_bytes_of(rows, recipe.options),
        strict=True,
    ):
        key = name.rsplit("/", maxsplit=1)[-1]
        samples |= {f"{key}.png": data, f"{key}.cls": str(label).encode()}
    held_out = write_shard(folder / "held-out.tar", samples)
    weights = str(folder / "out/weights.safetensors")
    command = ["run", "--data", str(held_out), "--weights", weights, "--device", "cpu"]
    command += ["--out", str(folder / "certified"), "--mlflow", "none", "--json"]
    assert main([*command, "--threads", "1"]) == 0
    summary = json.loads(capsys.readouterr().out)
    figures = read_card(weights).recipe["history"][-1]
    assert summary["images"] == 6
    assert summary["plain_accuracy"]["value"] == figures["validation/plain_accuracy"]
    assert summary["smoothed_accuracy"]["value"] == figures["validation/smoothed_accuracy"]
    assert summary["mean_ablation_accuracy"] == figures["validation/ablation_accuracy"]
    certified = {
        f"validation/certified_accuracy/{claim['rule']}/{claim['patch_px']}px": claim["value"]
        for claim in summary["certified_accuracy"]
    }
    assert certified == {k: v for k, v in figures.items() if "certified" in k}
    assert len(certified) == 6


def test_the_curves_are_in_mlflow_once_per_training(trained):
    folder, arguments = trained
    assert main(arguments) == 0
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'out'}/mlflow.db")
    (run,) = mlflow.search_runs(experiment_names=["patchcert-training"], output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.params["lr"] == "0.002"
    assert run.data.params["data.images"] == "42"
    client = mlflow.MlflowClient()
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    history = read_card(str(folder / "out/weights.safetensors")).recipe["history"]
    assert [(m.step, m.value) for m in losses] == [(h["epoch"], h["train/loss"]) for h in history]
    assert "validation/certified_accuracy/exact/2px" in run.data.metrics


def test_another_configuration_is_refused_and_overwrite_starts_again(trained, capsys):
    folder, arguments = trained
    assert main([*arguments, "--label-smoothing", "0.2", "--mlflow", "none"]) == 2
    said = capsys.readouterr().err
    assert "label_smoothing (0.05, now 0.2)" in said
    assert "--overwrite" in said
    again = [*arguments, "--label-smoothing", "0.2", "--mlflow", "none", "--overwrite"]
    again[again.index("--out") + 1] = str(folder / "other")
    assert main(again) == 0


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--init", "absent.safetensors"], "absent.safetensors: no such file"),
        (["--model", "test_vitt"], "did you mean test_vit"),
        (["--views-per-image", "0"], "--views-per-image 0: it must be at least 1"),
        (["--margin", "0.3"], "give --views-per-image 2 or more"),
        (["--checkpoint-minutes", "5"], "add --no-ray"),
        (["--model", "resnet18"], "do not fit resnet18"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(tmp_path, capsys, extra, message):
    config = toy_config(tmp_path)
    arguments = ["train", "--data", config.data, "--out", str(tmp_path / "out"), *ARGUMENTS]
    if "--init" not in extra:
        arguments += ["--init", config.init]
    assert main([*arguments, "--mlflow", "none", *extra]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_dry_run_counts_and_leaves_everything_as_it_is(trained, tmp_path, capsys):
    folder, arguments = trained
    before = {path: path.read_bytes() for path in (folder / "out").iterdir() if path.is_file()}
    asked = ["--dry-run", "--images-per-second", "12", "--price-per-hour", "600"]
    fresh = [*arguments[:-1], str(tmp_path / "new"), *asked]
    assert main(fresh) == 0
    steps = 2 * toy_recipe(folder, epochs=2).order.steps
    said = capsys.readouterr().out
    assert f"= {steps}\nthere already: 0" in said
    # Steps of 12 images at 12 images/s: a second each, at 600 an hour.
    assert f"cost:          {steps / 6:.2f}" in said
    assert not (tmp_path / "new").exists()
    assert main([*arguments, "--dry-run"]) == 0
    assert f"there already: {steps} " in capsys.readouterr().out
    assert main([*arguments, "--dry-run", "--overwrite"]) == 0
    assert "there already: 0 " in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in before}
