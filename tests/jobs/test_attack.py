"""``patchcert attack`` and ``patchcert witness`` as a user meets them."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from pipeline.attack import witness
from pipeline.certificates import rules
from tests.pipeline.attack.small_runs import finished_run, vote_here

HEAVY = ("torch", "ray", "mlflow", "timm", "matplotlib", "pandas", "duckdb")
SMALL = ["--patch", "8", "--images", "4", "--steps", "2", "--locations", "1", "--restarts", "1"]


@pytest.fixture(scope="module")
def out(shards, tiny_weights, tmp_path_factory) -> str:
    """A folder with one run of 23 images, two of them with an error."""
    folder = tmp_path_factory.mktemp("attacked") / "out"
    finished_run(folder, str(shards), tiny_weights)
    return str(folder)


@pytest.mark.parametrize("command", ["attack", "witness"])
def test_help_and_usage_errors_import_nothing_heavy(command):
    code = (
        "import sys\nfrom jobs.cli import main\n"
        f"assert main([{command!r}, '--help']) == 0\nassert main([{command!r}, '--nope']) == 2\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.services
def test_an_attack_through_ray(out, ray_session, capsys):
    """Votes come from actors in other processes; logits from this one."""
    assert main(["attack", "--out", out, *SMALL]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    run_id = lines[-1].removeprefix("run_id=")
    assert Path(out, "votes", f"run_id={run_id}").is_dir()
    said = "\n".join(lines)
    for part in ("certified, exact", "empirical, this attack", "an upper bound from", "0 of "):
        assert part in said
    places = dict(line.split(maxsplit=1) for line in lines if line.split(maxsplit=1)[1:])
    rows = pq.read_table(places["attacks:"])
    assert rows.num_rows == 4
    assert sum(rows["untouched_changed"].to_pylist()) == 0
    summary = json.loads(Path(places["summary:"]).read_text())
    assert summary["attacked"]["certified"]["images_changed"] == 0
    assert summary["failures"] == 0


def test_a_refuted_certificate_fails_the_job(out, capsys, monkeypatch):
    """A rule that certifies everything; replayed in this process, which is quicker."""
    monkeypatch.setattr("pipeline.attack.flow.vote_again", vote_here)
    honest = rules.margins
    monkeypatch.setattr(rules, "margins", lambda *given: honest(*given) + 100)
    flags = ["--patch", "40", "--images", "6", "--steps", "6", "--locations", "1", "--json"]
    assert main(["attack", "--out", out, *flags, "--restarts", "1"]) == 1
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert summary["run_id"].startswith("r")
    assert summary["failures"] > 0
    assert "FALSIFIED" in captured.err
    assert "is certified (margin" in captured.err
    assert "please report this" in captured.err
    saved = Path(captured.err.strip().splitlines()[-1].rsplit(": ", 1)[1])
    assert len(list(saved.glob("*/counterexample.json"))) == summary["failures"]


def test_witnesses_need_no_torch(out):
    code = (
        "import sys\nfrom jobs.cli import main\n"
        f"assert main(['witness', '--out', {out!r}, '--patch', '8']) == 0\n"
        "assert not {'torch', 'ray', 'timm', 'mlflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    first, second, last = done.stdout.strip().splitlines()
    assert "21 images" in first
    assert "each a witness that changes its prediction" in first
    assert pq.read_table(second.split(maxsplit=1)[1]).num_rows > 0
    assert last.startswith("run_id=r")


def test_a_rule_that_the_votes_contradict_fails_the_job(out, capsys, monkeypatch):
    honest = witness.witnesses

    def generous(*given):
        found = honest(*given)
        return found._replace(margins_n=found.margins_n + 100)

    monkeypatch.setattr(witness, "witnesses", generous)
    assert main(["witness", "--out", out, "--patch", "8", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["failures"] > 0
    assert "is certified (margin" in captured.err
    assert "please report this" in captured.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["attack", "--patch", "0"], "--patch 0: it must be at least 1"),
        (["attack", "--patch", "161"], "choose a smaller --patch"),
        (["attack", "--steps", "0"], "--steps 0"),
        (["attack", "--seed", "-1"], "--seed -1"),
        (["attack", "--data", "absent"], "absent"),
        (["attack", "--weights", "absent.safetensors"], "absent.safetensors: no such file"),
        (["witness", "--patch", "161"], "choose a smaller --patch"),
        (["witness", "--patch", "0"], "--patch 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_get_one_message_and_code_2(flags, message, out, capsys):
    command, *more = flags
    assert main([command, "--out", out, *more]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_run_that_was_never_begun(tmp_path, capsys):
    assert main(["witness", "--out", str(tmp_path), "--run-id", "r0"]) == 2
    assert "holds 0 runs: `patchcert run` makes one" in capsys.readouterr().err
    assert main(["attack", "--out", str(tmp_path)]) == 2
    assert "holds 0 runs" in capsys.readouterr().err
