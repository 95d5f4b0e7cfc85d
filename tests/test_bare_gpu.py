"""Files packed for a machine without network arrive there as they were, or are refused by name."""

import importlib.util
import json
import re
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import REPOSITORY

HERE = "{}.{}".format(*sys.version_info)


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("bare_gpu", REPOSITORY / "examples/bare_gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_wheel(folder: Path) -> None:
    folder.mkdir()
    about = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried.py", "PLACE = 'site'\n")
        wheel.writestr("carried-1.0.dist-info/WHEEL", about)
        wheel.writestr(
            "carried-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n"
        )
        wheel.writestr("carried-1.0.dist-info/RECORD", "")


@pytest.fixture
def bundle(script, tmp_path):
    write_wheel(tmp_path / "wheels")
    (tmp_path / "train.parquet").write_bytes(bytes(range(256)) * 9000)
    files = [tmp_path / "train.parquet"]
    script.pack(tmp_path / "bundle", files, wheels=tmp_path / "wheels", mib=1, python=HERE)
    return tmp_path / "bundle"


def test_what_was_packed_is_there_after_unpacking(script, bundle, tmp_path):
    parts = sorted(bundle.glob("part-*"))
    assert len(parts) > 3
    assert {part.stat().st_size for part in parts[:-1]} == {1 << 20}
    assert {file.name for file in bundle.iterdir()} - {part.name for part in parts} == {
        *("bare_gpu.py", "manifest.json")
    }
    work = tmp_path / "new/work"
    script.unpack(bundle, work)
    assert (work / "data/train.parquet").read_bytes() == (tmp_path / "train.parquet").read_bytes()
    for name in ("jobs/train.py", "examples/cifar10/train-masks.yaml", *script.GPU_TESTS):
        assert (work / name).read_bytes() == (REPOSITORY / name).read_bytes()
    assert not list(work.rglob("smoothed_deit_tiny.safetensors"))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["work"]
    code = "import carried, jobs; from importlib.metadata import version as v; "
    code += "print(carried.PLACE, jobs.__file__, v('patchcert'))"
    done = script.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=script.surroundings(work), **script.KEPT
    )
    assert done.stdout.split() == ["site", str(work / "jobs/__init__.py"), "0.1.0"], done.stderr


def test_every_part_that_is_missing_or_other_is_named_and_nothing_made(script, bundle, tmp_path):
    (bundle / "part-001").unlink()
    with (bundle / "part-002").open("r+b") as part:
        part.write(b"other bytes")
    with pytest.raises(script.Refusal) as refused:
        script.unpack(bundle, tmp_path / "new/work")
    assert set(re.findall(r"part-\d+", str(refused.value))) == {"part-001", "part-002"}
    assert list((tmp_path / "new").iterdir()) == []


def test_a_manifest_that_was_cut_is_refused(script, bundle, tmp_path):
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text()[:40])
    with pytest.raises(script.Refusal, match=r"manifest.json.*carry it over again"):
        script.unpack(bundle, tmp_path / "work")


def test_a_python_that_dies_without_a_word_is_refused(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "_MACHINE", "import os; os.abort()")
    (tmp_path / "work").mkdir()
    with pytest.raises(script.Refusal, match="ended with code -6"):
        script.machine(tmp_path / "work")


def test_wheels_of_another_python_are_refused(script, bundle, tmp_path):
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"python": "3.99"}))
    with pytest.raises(script.Refusal, match=f"pack again with --python {HERE}"):
        script.unpack(bundle, tmp_path / "work")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pack", "--out", "new", "absent.parquet"], "absent.parquet"),
        (["pack", "--out", "new", "a/x", "b/x"], "same name"),
        (["pack", "--out", "new", "--part-mib", "0"], "--part-mib 0"),
        (["pack", "--out", "new", "--with", "torch==2.11.0"], "no torch"),
        (["pack", "--out", "a"], "a is not empty"),
        (["unpack", "a", "--to", "b"], "b is not empty"),
        (["unpack", "a", "--to", "new"], "a/manifest.json"),
        (["train", "absent", "--epochs", "1"], "absent"),
        (["check", "absent", "--to", "gpu.json"], "absent"),
    ],
)
def test_what_cannot_be_done_is_said(script, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "x").touch()
    assert script.main(arguments) == 2
    assert said in capsys.readouterr().err
    assert not Path("new").exists()


def test_check_keeps_every_outcome(script, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    (work / "manifest.json").write_text('{"revision": "abc"}')
    machine = {"torch": "2.11.0", "gpus": ["a GPU"]}
    monkeypatch.setattr(script, "machine", lambda _: machine)
    failing = "import sys; print('1 failed'); sys.exit('why')"
    answering = "import json, sys; print(json.dumps(sys.argv[1:]))"
    checks = {"tests": ["-c", failing], "bench": ["-c", answering]}
    monkeypatch.setattr(script, "CHECKS", checks)
    to = tmp_path / "gpu.json"
    assert script.main(["check", str(work), "--to", str(to), "--images", "2"]) == 1
    found = json.loads(to.read_text())
    assert (found["machine"], found["revision"]) == (machine, "abc")
    tests, bench = found["checks"]["tests"], found["checks"]["bench"]
    assert (tests["exit_code"], tests["output"], tests["errors"]) == (1, "1 failed\n", "why\n")
    assert (bench["exit_code"], bench["output"]) == (0, ["--images", "2"])
    monkeypatch.setattr(script, "CHECKS", {"bench": checks["bench"]})
    assert script.main(["check", str(work), "--to", str(to)]) == 0
    # Where no GPU is seen its tests are skipped, which is no success.
    machine["gpus"] = []
    assert script.main(["check", str(work), "--to", str(to)]) == 1


def test_the_wheels_bring_all_that_they_require(script):
    """But for torch's, and hf-xet, which only downloads from the hub use."""
    pinned = re.findall(r"^([a-z0-9.-]+)==", (REPOSITORY / "requirements.txt").read_text(), re.M)
    assert set(script.WHEELS) <= set(pinned)
    required = {
        requirement.name.lower().replace("_", "-")
        for name in script.WHEELS
        for requirement in map(Requirement, metadata.requires(name) or [])
        if not requirement.marker or requirement.marker.evaluate({"extra": ""})
    }
    assert required - set(script.WHEELS) == {"torch", "torchvision", "hf-xet"}


def test_all_tests_on_a_gpu_are_checked(script):
    marked = {
        str(file.relative_to(REPOSITORY))
        for file in (REPOSITORY / "tests").rglob("test_*.py")
        if "pytest.mark." + "gpu" in file.read_text()
    }
    assert marked == set(script.GPU_TESTS)
