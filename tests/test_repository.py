"""What the repository promises beside its code."""

import re
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]


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
