"""The pinned requirements: exact, hashed, installed as pinned, and past the holes we know of.

No advisory database is kept here, and none is asked: the table below is what can be checked
offline. It is extended by hand when an advisory matters to this project.
"""

import re
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import REPOSITORY

# Below these versions a hole is open: where it was closed, and what it was.
FLOORS = {
    "aiohttp": ("3.12.14", "CVE-2025-53643: request smuggling through chunked trailers"),
    "certifi": ("2024.7.4", "CVE-2024-39689: roots of GLOBALTRUST still trusted"),
    "cryptography": ("42.0.4", "CVE-2024-26130: crash on mismatched PKCS#12 keys"),
    "flask": ("2.3.2", "CVE-2023-30861: session cookies cached by proxies"),
    "gunicorn": ("22.0.0", "CVE-2024-1135: request smuggling through Transfer-Encoding"),
    "h11": ("0.16.0", "CVE-2025-43859: malformed chunked bodies accepted"),
    "idna": ("3.7", "CVE-2024-3651: quadratic time in encode()"),
    "jinja2": ("3.1.6", "CVE-2025-27516: sandbox escape through |attr"),
    "mlflow": ("3.11", "CVE-2026-3198, and the authentication bypass CVE-2026-2652"),
    "pillow": ("10.3.0", "CVE-2024-28219: buffer overflow in _imagingcms"),
    "protobuf": ("6.31.1", "CVE-2025-4565: unbounded recursion in the pure Python parser"),
    "pyarrow": ("14.0.1", "CVE-2023-47248: code run by IPC and Parquet files"),
    "pyyaml": ("5.4", "CVE-2020-14343: code run by full_load"),
    "ray": ("2.56", "CVE-2026-57516: code run by WebDataset members"),
    "requests": ("2.32.4", "CVE-2024-47081: .netrc credentials sent to another host"),
    "setuptools": ("78.1.1", "CVE-2025-47273: path traversal in PackageIndex"),
    "sqlparse": ("0.5.0", "CVE-2024-4340: unbounded recursion on nested lists"),
    "starlette": ("0.49.1", "CVE-2025-62727: quadratic time in Range headers"),
    "torch": ("2.6.0", "CVE-2025-32434: code run by torch.load(weights_only=True)"),
    "urllib3": ("2.5.0", "CVE-2025-50181: redirects followed where they were switched off"),
    "virtualenv": ("20.26.6", "CVE-2024-53899: commands run by activation scripts"),
    "werkzeug": ("3.0.3", "CVE-2024-34069: code run through the debugger"),
    "zipp": ("3.19.1", "CVE-2024-5569: endless loop on a crafted zip"),
}


def pins() -> dict[str, tuple[Requirement, str]]:
    """Each requirement with the text of its block, by canonical name."""
    text = (REPOSITORY / "requirements.txt").read_text()
    found = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.M)[1:]:
        requirement = Requirement(block.splitlines()[0].rstrip("\\ "))
        found[canonicalize_name(requirement.name)] = requirement, block
    return found


def pinned(requirement: Requirement) -> str:
    (only,) = requirement.specifier
    assert only.operator == "==", requirement
    return only.version


def declared() -> dict[str, Requirement]:
    """What pyproject.toml asks for, extras included."""
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(one for extra in extras for one in extra)]
    return {canonicalize_name(one.name): one for one in map(Requirement, wanted)}


def test_every_requirement_is_one_version_with_hashes_and_names_no_host():
    found = pins()
    assert len(found) > 100
    for name, (requirement, block) in found.items():
        assert re.fullmatch(r"[0-9][0-9A-Za-z.+!]*", pinned(requirement)), name
        assert requirement.url is None, name
        hashes = re.findall(r"--hash=([a-z0-9]+):([0-9a-f]+)", block)
        assert hashes, name
        assert all(kind == "sha256" and len(digest) == 64 for kind, digest in hashes), name
    assert "://" not in (REPOSITORY / "requirements.txt").read_text()


def test_what_is_declared_is_pinned_within_its_bounds():
    found = pins()
    for name, wanted in declared().items():
        assert wanted.specifier.contains(pinned(found[name][0])), wanted


def test_what_is_installed_is_what_is_pinned():
    """Tests of other versions would say nothing about those that users get."""
    for name, (requirement, _) in pins().items():
        if requirement.marker is None or requirement.marker.evaluate():
            assert version(name) == pinned(requirement), name


@pytest.mark.parametrize("name", FLOORS)
def test_no_pin_lies_below_a_known_hole(name):
    floor, advisory = FLOORS[name]
    assert re.match(r"CVE-\d{4}-\d{4,}", advisory)
    assert Version(pinned(pins()[name][0])) >= Version(floor), advisory


@pytest.mark.parametrize("name", ["mlflow", "ray"])
def test_what_speaks_to_the_network_has_its_floor_where_users_choose_versions(name):
    """Without hashes, ``pip install patchcert`` takes what pyproject.toml allows."""
    lower = [Version(one.version) for one in declared()[name].specifier if one.operator == ">="]
    assert max(lower) >= Version(FLOORS[name][0]), FLOORS[name][1]
