"""The command as a user meets it: exit codes, messages, outputs, MLflow."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version

import mlflow
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import jobs.doctor
from jobs.cli import app, main
from models.networks.systems import SYSTEMS
from models.networks.weights import read_card
from pipeline.preflight.findings import Caution, Finding
from tests.conftest import REPOSITORY
from tests.in_process import stages_here

HEAVY = ("torch", "ray", "mlflow", "timm", "matplotlib", "pandas")


def flags(shards, weights, out, *more: str) -> list[str]:
    fixed = ["--microbatch", "16", "--threads", "1", "--unit-images", "12", "--actors", "1"]
    fixed += ["--max-error-rate", "0.1"]  # two of the 23 images have an error
    return ["--data", str(shards), "--weights", str(weights), "--out", str(out), *fixed, *more]


@pytest.fixture(scope="module")
def finished(shards, tiny_weights, tmp_path_factory, ray_session):
    """(out, run_id) of one `patchcert run`."""
    out = tmp_path_factory.mktemp("cli") / "out"
    assert main(["run", *flags(shards, tiny_weights, out, "--patch", "8", "16")]) == 0
    summaries = [p for p in (out / "summary").glob("run_id=*.json") if "tracked" not in p.name]
    assert len(summaries) == 1
    return out, summaries[0].stem.removeprefix("run_id=")


def lines_of(capsys) -> list[str]:
    return capsys.readouterr().out.strip().splitlines()


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["run", "--help"], ["run"], ["run", "--nope"]),
        *(["show", "--help"], ["show"], ["show", "--nope"]),
        *(["convert", "--help"], ["convert"], ["convert", "a", "b"]),
        *(["votes", "--nope"], ["certify", "--help"], ["sweep"], ["doctor", "--help"]),
        *(["train", "--help"], ["train"], ["attack", "--nope"], ["audit", "--help"]),
    ],
)
def test_help_and_usage_errors_import_nothing_heavy(arguments):
    code = (
        "import sys\nfrom jobs.cli import main\n"
        f"code = main({arguments!r})\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not heavy, heavy\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if "--help" in arguments else 2), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [name for name in app if not name.startswith("-")])
def test_no_help_waits_for_torch_ray_or_mlflow(command):
    code = (
        "import sys\nfrom jobs.cli import main\n"
        f"assert main([{command!r}, '--help']) == 0\n"
        "assert not {'torch', 'ray', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_list_of_commands_imports_none_of_them():
    code = (
        "import sys\nfrom jobs.cli import main\nassert main(['--help']) == 0\n"
        "mine = {name for name in sys.modules if name.startswith(('jobs.', 'pipeline.'))}\n"
        "runs = {'pipeline.runs', 'pipeline.runs.versions'}\n"
        "assert mine == {'jobs.cli', 'jobs.config_file'} | runs, mine\n"
        "assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_list_says_of_each_command_what_its_docstring_says():
    for name in app:
        command = app[name]
        if name not in (*app.help_flags, *app.version_flags):
            said = (command.default_command.__doc__ or "").splitlines()[0]
            assert command.help.splitlines()[0] == said


@pytest.mark.parametrize(
    ("command", "first"),
    [
        (
            "run",
            "data weights model limit classes views size stride covers masks device overwrite "
            "patch rule mlflow out json dry-run",
        ),
        (
            "votes",
            "data weights model limit classes views size stride covers masks device overwrite out "
            "json dry-run",
        ),
        (
            "train",
            "data init model limit views size stride covers masks epochs batch views-per-image lr "
            "augment out device workers overwrite mlflow dry-run",
        ),
    ],
)
def test_help_begins_with_the_options_of_every_day(command, first, capsys):
    assert main([command, "--help"]) == 0
    everyday, advanced = capsys.readouterr().out.split("─ Advanced ─")
    shown = re.findall(r"^│ (?:\*  |   )--([\w-]+)", everyday, re.M)
    assert shown == first.split()
    assert "[required]" not in advanced


def test_certificates_import_no_framework():
    code = (
        "import sys, pipeline.certificates.rules, models.views.ablations\n"
        "assert not {'torch', 'ray', 'mlflow', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_run_prints_a_table_the_places_and_the_id_last(finished, shards, tiny_weights, capsys):
    out, run_id = finished
    assert main(["run", *flags(shards, tiny_weights, out, "--patch", "8", "16")]) == 0
    captured = capsys.readouterr()
    lines = captured.out.strip().splitlines()
    assert lines[-1] == f"run_id={run_id}"
    assert "all 23 images were there already" in captured.err
    for expected in ("plain", "smoothed", "8x8 px", "16x16 px", "exact", "uniform", "mlflow ui"):
        assert expected in captured.out
    # Long captions go on in the next line.
    assert "2 images with errors count as wrong" in " ".join(captured.out.split())
    for line in lines:
        if line.startswith(("votes:", "picture:", "summary:", "certificates:")):
            place = line.split(maxsplit=1)[1]
            assert place.startswith(str(out))
    assert (out / "summary" / f"run_id={run_id}.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_the_summary_file(finished, capsys):
    out, run_id = finished
    assert main(["certify", "--out", str(out), "--patch", "8", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((out / "summary" / f"run_id={run_id}.json").read_text())
    assert printed["run_id"] == run_id


def test_certify_needs_no_images_no_weights_and_no_torch(finished, tmp_path):
    out, _ = finished
    code = (
        "import sys\nfrom jobs.cli import main\n"
        f"arguments = ['certify', '--out', {str(out)!r}, '--patch', '24', '--mlflow', 'none']\n"
        "assert main(arguments) == 0\n"
        "assert not {'torch', 'ray', 'timm', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_one_mlflow_run_per_run_id(finished, shards, tiny_weights):
    out, run_id = finished
    assert main(["certify", "--out", str(out), "--patch", "32"]) == 0
    mlflow.set_tracking_uri(f"sqlite:///{out}/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["patchcert"], output_format="list")
    assert len(runs) == 1
    (run,) = runs
    client = mlflow.MlflowClient()
    steps = {
        metric.step
        for metric in client.get_metric_history(run.info.run_id, "certified_accuracy/exact")
    }
    assert {8, 16, 32} <= steps
    assert run.data.params["model.name"] == "test_vit"
    assert run.data.params["ablation.stride"] == "16"
    assert run.data.tags["patchcert.run_id"] == run_id
    assert run.data.metrics["images_with_error"] == 2
    assert run.inputs.dataset_inputs[0].dataset.name == shards.name
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert names == {
        "manifest.json",
        "summary.json",
        "certified_accuracy.json",
        "certified_accuracy.png",
        "heatmap.png",
    }


def test_yaml_and_flags_mean_the_same(
    finished, shards, tiny_weights, tmp_path, capsys, monkeypatch
):
    stages_here(monkeypatch)
    out, run_id = finished
    config = tmp_path / "run.yaml"
    config.write_text(
        f"data: {shards}\nweights: {tiny_weights}\nout: {out}\npatch: [8, 16]\n"
        "microbatch: 16\nthreads: 1\nactors: 1\nmax-error-rate: 0.1\nlimit: 5\n"
    )
    # The command line wins over the file.
    assert main(["run", "--config", str(config), "--limit", "23"]) == 0
    assert lines_of(capsys)[-1] != f"run_id={run_id}"  # a limit is part of the identity
    config.write_text(config.read_text().replace("limit: 5\n", ""))
    assert main(["votes", f"--config={config}"]) == 2  # patch is no key of votes
    config.write_text(config.read_text().replace("patch: [8, 16]\n", ""))
    assert main(["votes", f"--config={config}"]) == 0
    assert lines_of(capsys)[-1] == f"run_id={run_id}"


def test_module_entry_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "jobs", "run", "--help"], capture_output=True, text=True, check=True
    )
    assert "--stride" in done.stdout


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "deit_tinny_patch16_224"], "did you mean deit_tiny"),
        (["--num-classes", "9"], "do not fit test_vit with 9 classes"),
        (["--patch", "161"], "choose a smaller --patch"),
        (["--size", "161"], "size=161"),
        (["--stride", "0"], "--stride 0"),
        (["--weights", "absent.safetensors"], "absent.safetensors: no such file"),
        (["--data", "absent"], "absent"),
        (["--resize", "big"], "--resize big"),
        (["--crop", "81"], "check --model, --preprocess and --crop"),
        (["--positions", "every"], "--positions every: write random:N"),
        (["--voting", "threshold", "--theta", "2"], "--theta 2"),
        (["--rule", "randomized"], "randomized"),
        (["--classes", "1,99"], "99 is none of the model's classes"),
        (["--config", "absent.yaml"], "absent.yaml: no such file"),
        (["--device", "cuda"], "no CUDA device"),
        (["--mean", "1", "2"], ""),
        (["--std", "58.395", "57.12", "57.375"], "divided by 255: std 0.229 0.224 0.225"),
        (["--dtype", "float16"], ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_get_one_message_and_code_2(more, message, shards, tiny_weights, tmp_path, capsys):
    out = tmp_path / "out"
    given = flags(shards, tiny_weights, out)
    for name in more[::2] if more[0] in ("--weights", "--data") else ():
        at = given.index(name)
        del given[at : at + 2]
    assert main(["run", *given, *more]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (out / "votes").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "deit_tny_patch16_224"], "did you mean deit_tiny_patch16_224"),
        (["--num-classes", "9"], "do not fit test_vit with 9 classes"),
        (["--rule", "exat"], "did you mean exact?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_dry_run_refuses_what_the_job_would(
    more, message, shards, tiny_weights, tmp_path, capsys
):
    given = flags(shards, tiny_weights, tmp_path / "out", *more, "--dry-run")
    assert main(["run", *given]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_dry_run_reads_the_weights(shards, tiny_weights, tmp_path, capsys):
    """Faults that no header tells: damage, numbers that are none, and no way to drop tokens."""
    state = load_file(tiny_weights)
    card = read_card(str(tiny_weights)).to_metadata()
    broken = state | {"head.bias": state["head.bias"] * torch.nan}
    save_file(broken, tmp_path / "nan.safetensors", metadata=card)
    (tmp_path / "cut.pth").write_bytes(b"PK\3\4 and no more")
    cnn = timm.create_model("test_resnet", num_classes=7).state_dict()
    save_file(cnn, tmp_path / "cnn.safetensors")
    look = ["--model", "test_resnet", "--crop", "160", "--resize", "none"]
    for name, more, message in (
        ("nan.safetensors", [], "tensors are not finite (NaN or infinity): head.bias"),
        ("cut.pth", ["--model", "test_vit"], "truncated, damaged"),
        ("cnn.safetensors", [*look, "--num-classes", "7"], "use --tokens black"),
    ):
        given = flags(shards, tmp_path / name, tmp_path / "out", *more, "--dry-run")
        assert main(["votes", *given]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.out == ""


def test_what_was_listed_is_kept_though_the_weights_do_not_load(
    shards, tiny_weights, tmp_path, capsys, monkeypatch
):
    """Files of terabytes must not be read again, for the next try or for a dry run."""
    out = tmp_path / "out"
    assert main(["votes", *flags(shards, tiny_weights, out, "--num-classes", "9")]) == 2
    assert "do not fit" in capsys.readouterr().err
    (kept,) = (out / "listings").iterdir()

    def read_again(*_):
        raise AssertionError

    monkeypatch.setattr("pipeline.sources.listing._open", read_again)
    assert main(["votes", *flags(shards, tiny_weights, out, "--dry-run")]) == 0
    assert list((out / "listings").iterdir()) == [kept]


def test_a_unit_that_ray_would_split_is_refused(shards, tiny_weights, tmp_path, capsys):
    given = flags(shards, tiny_weights, tmp_path / "out")
    given[given.index("--unit-images") + 1] = "40000"
    for dry in ([], ["--dry-run"]):
        assert main(["votes", *given, *dry]) == 2
        said = capsys.readouterr().err
        assert "--unit-images 40000" in said
        assert f"give at most {(2**31 - 1) // (3 * 160 * 160)}" in said


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_run_says_what_decides_it_and_where_it_comes_from(
    dry, shards, tiny_weights, tmp_path, capsys, monkeypatch
):
    stages_here(monkeypatch)
    more = ["--mean", "0.1", "0.2", "0.3", "--stride", "80", *dry]
    assert main(["votes", *flags(shards, tiny_weights, tmp_path / "out", *more)]) == 0
    said = capsys.readouterr().err
    for line in (
        "network:    test_vit (the weights), 7 classes (the weights)",
        "input:      no resize, bilinear, crop 160x160, mean 0.1 0.2 0.3 (--mean), "
        "std 0.2 0.25 0.3, as the weights say",
        "hidden tokens dropped (the weights)",
    ):
        assert line in said


def test_of_a_checkpoint_the_run_says_which_weights_it_takes(
    shards, tiny_weights, tmp_path, capsys
):
    state = load_file(tiny_weights)
    path = tmp_path / "a.pth"
    torch.save({"state_dict": state, "state_dict_ema": state}, path)
    given = ["--model", "test_vit", "--num-classes", "7", "--tokens", "black", "--dry-run"]
    given += ["--resize", "300", "--preprocess", "model"]
    assert main(["votes", *flags(shards, path, tmp_path / "out", *given)]) == 0
    said = capsys.readouterr().err
    for part in (
        f"weights:    state_dict_ema of {path}",
        "test_vit (--model), 7 classes (--num-classes)",
        "resize 300 (--resize)",
        "as timm's test_vit says",
        "hidden tokens black (--tokens)",
    ):
        assert part in said


def test_json_is_one_document(finished, shards, tiny_weights, capsys):
    out, run_id = finished
    given = [*flags(shards, tiny_weights, out), "--json"]
    for command in (["votes", *given], ["votes", *given, "--dry-run"]):
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out)["run_id"] == run_id
    for command in (["audit", "--patch", "8"], ["witness", "--patch", "8"]):
        assert main([*command, "--out", str(out), "--run-id", run_id, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found[0] if isinstance(found, list) else found)["run_id"] == run_id


def test_doctor_speaks_json(tiny_weights, tmp_path, capsys, monkeypatch):
    lost = Finding("data", False, "no such file")
    open_to_others = Finding("token", True, Caution("chmod 600 it"))
    monkeypatch.setattr(jobs.doctor, "_findings", lambda *_, **__: iter([lost, open_to_others]))
    given = ["doctor", "--data", "absent", "--weights", str(tiny_weights)]
    assert main([*given, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "checks": [
            {"name": "data", "ok": False, "said": "no such file", "caution": False},
            {"name": "token", "ok": True, "said": "chmod 600 it", "caution": True},
        ],
    }
    assert main(given) == 1
    assert capsys.readouterr().out.splitlines() == [
        "FAIL  data: no such file",
        "warn  token: chmod 600 it",
        "1 of the checks failed, 1 with a warning",
    ]


def test_certify_prints_what_was_asked_now(finished, capsys):
    out, run_id = finished
    certify = ["certify", "--out", str(out), "--run-id", run_id, "--mlflow", "none"]
    assert main([*certify, "--patch", "40", "48", "--detect"]) == 0
    assert main([*certify, "--patch", "40"]) == 0
    assert main([*certify, "--patch", "56"]) == 0
    printed = capsys.readouterr().out.split("images, 10 ablations each")[1:]
    assert ["40x40 px" in text for text in printed] == [True, True, False]
    assert ["48x48 px" in text for text in printed] == [True, False, False]
    assert ["Alert where" in text for text in printed] == [True, False, False]
    assert "what alerts detect of 2 threats (the summary, `patchcert sql`)" in printed[2]


def test_version_is_that_of_the_installation(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version("patchcert") != "0.0.0"


def test_help_says_every_default(capsys):
    for command, said in (
        ("run", ["[default: out]", "[default: 0.01]", "[default: 0.999]", "[default: patchcert]"]),
        ("train", ["[default: 30]", "[default: 0.0003]", "[default: trained]"]),
        ("bench", ["[default: 3]", "[default: 1 16]", "[default: 16]"]),
    ):
        assert main([command, "--help"]) == 0
        # In columns: what is broken over lines is put together again.
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert [words for words in said if words not in text] == []
        for value in ("None", "False", "()"):
            assert f"[default: {value}]" not in text


@pytest.mark.parametrize(
    ("key", "hint"),
    [("rul", "did you mean rule?"), ("unit_image", "did you mean unit-images?"), ("xyz", "--help")],
)
def test_a_key_that_is_no_option_is_named_with_the_nearest(key, hint, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(f"data: x\nweights: y\n{key}: 1\n")
    assert main(["run", "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert f"{key} is no option of `patchcert run`" in said
    assert hint in said


def test_a_reader_that_goes_is_no_failure(tmp_path):
    """The pipe is closed before the first line; the command ends with its own exit code."""
    code = "import sys; sys.argv[0] = 'patchcert'; from jobs.cli import entry; entry()"
    for arguments, expected in ((["systems"], 0), (["certify", "--out", str(tmp_path)], 2)):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, cwd=REPOSITORY
        )
        os.close(writer)
        assert done.returncode == expected, done.stderr
        assert "Broken pipe" not in done.stderr


def test_a_folder_with_runs_one_level_below_is_named(finished, capsys):
    out, _ = finished
    assert main(["certify", "--out", str(out.parent)]) == 2
    assert f"holds 0 runs: did you mean --out {out}?" in capsys.readouterr().err


def test_unwritable_output_fails_the_job_in_words(shards, tiny_weights, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    assert main(["run", *flags(shards, tiny_weights, tmp_path / "file" / "out")]) == 1
    assert "Not a directory" in capsys.readouterr().err


def test_a_run_must_be_named_where_there_are_several(tmp_path, capsys):
    for name in ("r1", "r2"):
        folder = tmp_path / "votes" / f"run_id={name}"
        folder.mkdir(parents=True)
    assert main(["certify", "--out", str(tmp_path)]) == 2
    assert "r1, r2" in capsys.readouterr().err


def test_systems_table_of_the_docs_is_the_registry(capsys):
    assert main(["systems", "--markdown"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed in (REPOSITORY / "docs/systems.md").read_text()
    assert main(["systems"]) == 0
    table = capsys.readouterr().out
    for system in SYSTEMS:
        assert system.examples[0] in table
