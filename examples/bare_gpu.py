"""Carry patchcert to a GPU machine that has Python and torch but no network, and use it there.

Where there is a network, in the repository, on a machine of the same architecture:

    python examples/bare_gpu.py pack --out bundle/ --with torchvision==0.26.0 \
        cifar10_train.parquet deit_tiny_patch16_224.safetensors

packs the code, the wheels that training and the bench need (exact versions and hashes of
requirements.txt, through pip as it is set up), this script and the data and weight files into
``bundle/``: parts of at most 60 MiB and a manifest with their sha256. torch is never among them;
torchvision is if asked for, since its version must fit the torch over there (torch 2.N takes
0.(N + 15)). Carry the files of ``bundle/`` over in as many trips as it takes. There:

    python bundle/bare_gpu.py unpack bundle/ --to work/
    python bundle/bare_gpu.py check work/ --to gpu.json
    python bundle/bare_gpu.py train work/ --config examples/cifar10/train-masks.yaml \
        --data data/cifar10_train.parquet --init data/deit_tiny_patch16_224.safetensors \
        --out trained/

``unpack`` verifies every part and installs the wheels into ``work/site``, never over the machine's
own packages. ``train`` is ``patchcert train --no-ray`` in ``work/``: paths are relative to it, and
the files that were packed lie in its ``data/``. ``check`` runs CHECKS and writes one JSON; its
further options go to ``patchcert bench``.

Standard library only. Exit codes: 0 done, 1 a check failed, 2 it cannot be done, and why is said.
"""

import argparse
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

# With their own requirements, but for torch, torchvision and what is needed online alone.
WHEELS = (
    *("numpy", "pillow", "pyarrow", "pyyaml", "safetensors"),
    *("timm", "huggingface-hub", "click", "filelock", "fsspec", "httpx2", "httpcore2", "h11"),
    *("anyio", "idna", "truststore", "packaging", "tqdm", "typing-extensions"),
    *("cyclopts", "attrs", "docstring-parser", "rich-rst", "rich", "markdown-it-py", "mdurl"),
    *("pygments", "pytest", "iniconfig", "pluggy"),
)
CODE = ("models", "pipeline", "jobs", "tests", "examples/*.yaml", "pyproject.toml", "LICENSE")
GPU_TESTS = ("tests/models/classifiers/test_bit_identity.py",)

# What `check` runs in work/, each as `python ...`: add a command here, and its outcome is in the
# JSON under its name. What it prints as JSON is kept as such, all else as text.
CHECKS: dict[str, list[str]] = {
    "tests": ["-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", *GPU_TESTS],
    "bench": ["-m", "jobs", "bench", "--json", "--pipeline", "0"],
}
_MACHINE = """
import json, torch, torchvision, timm
from pipeline.bench.hardware import hardware
gpus = [torch.cuda.get_device_name(gpu) for gpu in range(torch.cuda.device_count())]
exact = {"torch": torch.__version__, "torchvision": torchvision.__version__, "gpus": gpus}
print(json.dumps(hardware() | exact))
"""
REPOSITORY = Path(__file__).resolve().parents[1]
KEPT = {"capture_output": True}


class Refusal(Exception):  # noqa: N818  (not every refusal is an error)
    """Reason, in words and with a remedy, that a command cannot be carried out."""


def pack(out: Path, files: list[Path], *, wheels: Path, mib: int, python: str) -> None:
    """Write code, wheels and files into ``out``, as parts of ``mib`` MiB and their manifest."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out) as whole:
        with tarfile.open(fileobj=whole, mode="w") as tar:
            for name in git("ls-files", "-z", "--", *CODE).split("\0")[:-1]:
                tar.add(REPOSITORY / name, name)
            for file in files:
                tar.add(file.resolve(strict=True), f"data/{file.name}")
            tar.add(wheels, "wheels")
            # As an installation would leave it: the program asks for its own version.
            project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
            text = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".format(**project)
            member = tarfile.TarInfo("{name}-{version}.dist-info/METADATA".format(**project))
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        whole.seek(0)
        parts = []
        while piece := whole.read(mib << 20):
            name = f"part-{len(parts):03d}"
            (out / name).write_bytes(piece)
            sha256 = hashlib.sha256(piece).hexdigest()
            parts.append({"name": name, "bytes": len(piece), "sha256": sha256})
    revision = git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").strip()
    manifest = {"revision": revision, "python": python, "parts": parts}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1))
    shutil.copy(__file__, out)
    total = sum(part["bytes"] for part in parts) / 2**20
    print(f"{out}: {len(parts)} parts, {total:.0f} MiB, manifest.json and {Path(__file__).name}")


def download(into: Path, python: str, more: list[str]) -> None:
    """Fetch WHEELS in the versions and with the hashes of requirements.txt, and ``more``."""
    if any(re.match(r"(torch|triton|nvidia\S*)\b(?!-)", package) for package in more):
        raise Refusal("--with takes no torch: the one over there is used")
    blocks = re.split(r"\n(?=\S)", (REPOSITORY / "requirements.txt").read_text())
    pinned = [block for block in blocks if block.split("==")[0] in WHEELS]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into)]
    command += ["--only-binary=:all:", "--python-version", python]
    (into / "pinned.txt").write_text("\n".join(pinned))
    for wanted in (["--require-hashes", "-r", str(into / "pinned.txt")], more):
        if wanted and run(command + wanted).returncode:
            raise Refusal("pip could not fetch the wheels, and says why above")


def unpack(bundle: Path, to: Path) -> None:
    """Verify the parts in ``bundle`` and make the folder ``to`` of them, all of it or nothing."""
    try:
        manifest = json.loads((bundle / "manifest.json").read_text())
    except ValueError as error:
        raise Refusal(f"{bundle}/manifest.json is no JSON: carry it over again") from error
    here = "{}.{}".format(*sys.version_info)
    if manifest["python"] != here:
        raise Refusal(
            f"the wheels are for Python {manifest['python']}, and this is {here}: start the script "
            f"with that one, or pack again with --python {here}"
        )
    to.resolve().parent.mkdir(parents=True, exist_ok=True)
    half = to.resolve().with_name(to.resolve().name + ".partial")
    shutil.rmtree(half, ignore_errors=True)
    bad = []
    with tempfile.TemporaryFile(dir=half.parent) as whole:
        for part in manifest["parts"]:
            path = bundle / part["name"]
            piece = path.read_bytes() if path.is_file() else b""
            if hashlib.sha256(piece).hexdigest() != part["sha256"]:
                state = f"has other bytes ({len(piece)})" if path.is_file() else "is missing"
                bad.append(f"{path} {state}, of {part['bytes']} bytes")
            whole.write(piece)
        if bad:
            raise Refusal("\n".join([*bad, "carry these files over again"]))
        whole.seek(0)
        with tarfile.open(fileobj=whole) as tar:
            tar.extractall(half, filter="data")
    shutil.copy(bundle / "manifest.json", half)
    if wheels := sorted(map(str, (half / "wheels").glob("*.whl"))):
        command = [sys.executable, "-m", "pip", "--isolated", "install", "--quiet", "--no-index"]
        command += ["--no-deps", "--no-compile", "--target", str(half / "site"), *wheels]
        if run(command).returncode:
            raise Refusal("pip could not install the wheels, and says why above")
        shutil.rmtree(half / "wheels")
    half.rename(to)


def machine(work: Path) -> dict[str, Any]:
    """Find what the code in ``work`` can compute with."""
    done = run([sys.executable, "-c", _MACHINE], cwd=work, env=surroundings(work), **KEPT)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"Python ended with code {done.returncode}"]
        raise Refusal(
            f"the code in {work} cannot start: {said[-1]}\n"
            "torch must be on this machine; if torchvision is missing or does not fit it, pack "
            "again with --with torchvision==0.M.0, where M is 15 more than the N of torch 2.N"
        )
    return dict(json.loads(done.stdout))


def check(work: Path, to: Path, bench: list[str]) -> int:
    """Run CHECKS and write one JSON, after each of them: a machine may be taken away meanwhile."""
    found: dict[str, Any] = {"machine": machine(work)}
    found["revision"] = json.loads((work / "manifest.json").read_text())["revision"]
    checks = found["checks"] = {}
    for name, arguments in CHECKS.items():
        command = ["python", *arguments, *(bench if name == "bench" else [])]
        print(f"{name}: {shlex.join(command)}", flush=True)
        start = time.monotonic()
        done = run([sys.executable, *command[1:]], cwd=work, env=surroundings(work), **KEPT)
        checks[name] = {"command": command, "seconds": round(time.monotonic() - start, 1)}
        checks[name] |= {"exit_code": done.returncode, "errors": done.stderr[-4000:]}
        try:
            checks[name]["output"] = json.loads(done.stdout)
        except ValueError:
            checks[name]["output"] = done.stdout[-4000:]
            print(done.stdout[-4000:], done.stderr[-4000:])
        to.write_text(json.dumps(found, indent=1))
    if not found["machine"]["gpus"]:
        print("torch sees no GPU here: what needs one was skipped, so that nothing is known of it")
        return 1
    return int(any(outcome["exit_code"] for outcome in checks.values()))


def train(work: Path, options: list[str]) -> int:
    """Become ``patchcert train --no-ray`` in ``work``; without MLflow, which is not carried."""
    tracking = [] if "--mlflow" in options else ["--mlflow", "none"]
    command = [sys.executable, "-m", "jobs", "train", "--no-ray", *tracking, *options]
    environment = surroundings(work)
    os.chdir(work)
    # Not as a child: a signal must reach the training, which then leaves its checkpoint.
    os.execve(sys.executable, command, environment)  # noqa: S606


def surroundings(work: Path) -> dict[str, str]:
    """The environment in which Python finds the code first, then the wheels, then the machine's."""
    paths = [str(work.resolve()), str(work.resolve() / "site"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(command: list[str], **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command of this script's own making, to its end."""
    return subprocess.run(command, check=False, text=True, **options)  # noqa: S603


def git(*arguments: str) -> str:
    """Run git on the repository; the text that it prints."""
    done = run(["git", "-C", str(REPOSITORY), *arguments], **KEPT)
    if done.returncode:
        raise Refusal(f"pack needs a git checkout of the repository: {done.stderr.strip()}")
    return done.stdout


def main(arguments: list[str]) -> int:
    """Do what the command line says; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("pack", help="write the parts to carry")
    one.add_argument("files", nargs="*", type=Path, help="data and weights")
    one.add_argument("--out", type=Path, required=True, help="a new folder")
    one.add_argument("--part-mib", type=int, default=60, help="largest part [60]")
    one.add_argument("--python", default="3.12", help="version over there [3.12]")
    one.add_argument("--with", dest="more", action="append", default=[], metavar="NAME==1.0")
    for name, first, to, what in (
        ("unpack", "bundle", "a new folder", "verify the parts and install from them"),
        ("check", "work", "the JSON", "GPU tests and bench, into one JSON"),
        ("train", "work", None, "patchcert train --no-ray, with its options"),
    ):
        one = commands.add_parser(name, help=what)
        one.add_argument(first, type=Path)
        if to:
            one.add_argument("--to", type=Path, required=True, help=to)
    asked, rest = parser.parse_known_args(arguments)
    if rest and asked.command in ("pack", "unpack"):
        parser.error(f"unknown: {shlex.join(rest)}")
    new = {"pack": "out", "unpack": "to"}.get(asked.command)
    try:
        if new and (folder := getattr(asked, new)).exists() and any(folder.iterdir()):
            raise Refusal(f"{folder} is not empty: remove it, or name another folder")
        if asked.command == "train":
            return train(asked.work, rest)
        if asked.command == "check":
            return check(asked.work, asked.to, rest)
        if asked.command == "unpack":
            unpack(asked.bundle, asked.to)
            print(json.dumps(machine(asked.to), indent=1))
            return 0
        if asked.part_mib < 1:
            raise Refusal(f"--part-mib {asked.part_mib}: a part has at least 1 MiB")
        if missing := [str(file) for file in asked.files if not file.is_file()]:
            raise Refusal(f"no files, and pack takes only files: {', '.join(missing)}")
        if len({file.name for file in asked.files}) < len(asked.files):
            raise Refusal("two files have the same name, and all go into one folder: rename one")
        with tempfile.TemporaryDirectory() as folder:
            wheels = Path(folder)
            download(wheels, asked.python, asked.more)
            pack(asked.out, asked.files, wheels=wheels, mib=asked.part_mib, python=asked.python)
    except (Refusal, OSError) as error:
        print(f"bare_gpu: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
