"""The files that describe clusters: valid by Ray's own rules, closed, and without secrets."""

import copy
import re
import shlex

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from jobs.cli import app
from tests.conftest import REPOSITORY

SECRET = re.compile(r"AKIA[0-9A-Z]{16}|(?i:secret_access_key|password)\s*[:=]\s*\S|[0-9a-f]{64}")


def cluster() -> dict:
    return yaml.safe_load((REPOSITORY / "ray_cluster.yaml").read_text())


def rayjob() -> dict:
    return yaml.safe_load((REPOSITORY / "docs/kubernetes/rayjob.yaml").read_text())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("head_node_type",), "absent"),
        (("max_workers",), "eight"),
        (("provider", "type"), 5),
        (("available_node_types", "gpu_spot", "resources"), ["GPU"]),
        (("available_node_types", "gpu_spot", "max_workers"), "many"),
        (("available_node_types", "gpu_spot", "priority"), "high"),
        (("unknown_key",), 1),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_ray_accepts_the_cluster_and_refuses_broken_copies(path, value):
    validate_config(prepare_config(cluster()))
    broken = copy.deepcopy(cluster())
    *parents, last = path
    place = broken
    for name in parents:
        place = place[name]
    place[last] = value
    with pytest.raises((ValueError, TypeError, NotImplementedError, ValidationError)):
        validate_config(prepare_config(broken))


def test_spot_and_on_demand_workers_differ_in_nothing_else():
    types = cluster()["available_node_types"]
    spot, on_demand = copy.deepcopy(types["gpu_spot"]), types["gpu_on_demand"]
    assert spot["node_config"].pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert spot.pop("priority") > on_demand.pop("priority")
    assert spot == on_demand
    assert spot["min_workers"] == 0
    assert spot["resources"]["GPU"] == 1


def test_the_cluster_is_closed():
    config = cluster()
    head = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert "RAY_AUTH_MODE=token" in head
    assert "RAY_AUTH_MODE=token" in " ".join(config["worker_start_ray_commands"])
    assert "chmod 600 /home/ubuntu/.ray/auth_token" in config["setup_commands"]


def test_rayjob_field_by_field():
    job = rayjob()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["submissionMode"] == "K8sJobMode"
    assert spec["shutdownAfterJobFinishes"] is True
    ray = spec["rayClusterSpec"]
    assert ray["authOptions"] == {"mode": "token", "secretName": "patchcert-ray-token"}
    assert ray["enableInTreeAutoscaling"] is True
    pinned = re.search(
        r"^ray(?:\[.*\])?==(\S+)", (REPOSITORY / "requirements.txt").read_text(), re.M
    )
    assert ray["rayVersion"] == pinned[1]
    (workers,) = ray["workerGroupSpecs"]
    assert workers["minReplicas"] == workers["replicas"] == 0 < workers["maxReplicas"]
    for group in (ray["headGroupSpec"], workers):
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["envFrom"] == [{"secretRef": {"name": "patchcert-s3"}}]
        assert "env" not in container
    (container,) = workers["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_rayjob_command_is_one_that_patchcert_understands():
    words = shlex.split(rayjob()["spec"]["entrypoint"])
    assert words[:4] == ["python", "-m", "jobs", "run"]
    command, bound, _ = app.parse_args(words[3:], exit_on_error=False)
    assert command.__name__ == "run"
    what, output = bound.arguments["what"], bound.arguments["output"]
    assert output.out.startswith("s3://")
    assert what.data.startswith("s3://")
    assert what.weights.startswith("s3://")
    assert (what.device, what.accelerator_type) == ("cuda", "L4")
    # A retry that begins while the old cluster ends must wait for its lease.
    assert what.wait
    workers = rayjob()["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert what.actors == sum(group["maxReplicas"] for group in workers)


@pytest.mark.parametrize("name", ["ray_cluster.yaml", "docs/kubernetes/rayjob.yaml", "Dockerfile"])
def test_no_secret_lies_in_a_file(name):
    assert not SECRET.search((REPOSITORY / name).read_text())


def test_the_image_installs_by_hash_and_runs_as_nobody_special():
    text = (REPOSITORY / "Dockerfile").read_text()
    assert "--require-hashes -r requirements.txt" in text
    assert re.search(r"^USER ray$", text, re.M)
    copied = set(re.findall(r"^COPY (.+) \S+$", text, re.M))
    for names in copied:
        for name in names.split():
            assert (REPOSITORY / name).exists(), name
