"""What the repository promises beside its code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize("package", ["models", "pipeline", "jobs"])
def test_imports_point_one_way(package):
    """jobs -> pipeline -> models, never back."""
    later = {"models": ("pipeline", "jobs"), "pipeline": ("jobs",), "jobs": ()}[package]
    for file in (REPOSITORY / package).rglob("*.py"):
        for name in later:
            assert not re.search(rf"^\s*(from|import) {name}\b", file.read_text(), re.M), file


def test_every_package_is_declared():
    declared = re.search(
        r"^packages = (\[.*models.*\])$", (REPOSITORY / "pyproject.toml").read_text(), re.M
    )
    folders = {
        ".".join(file.parent.relative_to(REPOSITORY).parts)
        for package in ("models", "pipeline", "jobs")
        for file in (REPOSITORY / package).rglob("__init__.py")
    }
    assert set(yaml.safe_load(declared[1])) == folders


def test_example_data_is_balanced_and_small():
    import tarfile
    from collections import Counter

    folder = REPOSITORY / "examples/cifar10/data"
    labels: Counter[int] = Counter()
    for shard in folder.glob("*.tar"):
        with tarfile.open(shard) as archive:
            for member in archive:
                if member.name.endswith(".cls"):
                    labels[int(archive.extractfile(member).read())] += 1
    assert labels == dict.fromkeys(range(10), 50)
    assert sum(shard.stat().st_size for shard in folder.glob("*.tar")) <= 3_000_000


def test_certificates_module_runs_where_nothing_heavy_is_installed():
    code = (
        "import sys\n"
        "for name in ('torch', 'ray', 'mlflow', 'pyarrow', 'pandas', 'timm'):\n"
        "    sys.modules[name] = None\n"
        "import numpy as np\n"
        "from models.ablation import Ablation, Patch\n"
        "from pipeline.certificates.rules import margins\n"
        "ablation = Ablation(kind='column', size=1, stride=1, height=8, width=8)\n"
        "assert margins('exact', np.ones((1, 8), int), ablation, Patch(1, 1), 3) == [5]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
