"""The files that describe clusters: valid by Ray's own rules, closed, and without secrets."""

import copy
import re
import shlex

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from jsonschema import ValidationError
from packaging.version import Version
from ray.autoscaler._private.aws.config import DEFAULT_AMI, _check_ami
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


def test_every_node_has_an_image_that_can_install_us():
    """Ray would fill in one of Ubuntu 18.04, by region, and say nothing."""
    config = prepare_config(cluster())
    wanted = copy.deepcopy(config["available_node_types"])
    _check_ami(config)
    assert config["available_node_types"] == wanted
    images = {kind["node_config"]["ImageId"] for kind in wanted.values()}
    assert images.isdisjoint(DEFAULT_AMI.values())
    (image,) = images
    name = image.removeprefix("resolve:ssm:")
    ubuntu = re.fullmatch(
        r"/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-(\d\d\.\d\d)"
        r"/latest/ami-id",
        name,
    )
    assert Version(ubuntu[1]) >= Version("24.04")  # whose Python is 3.12; before it, 3.10
    # The head starts the workers: it asks for the same name, where the workers will be.
    (*_, asks) = config["head_setup_commands"]
    region = config["provider"]["region"]
    assert f'client("ssm", "{region}").get_parameter(Name=' in asks
    assert f'"{name}"' in asks


@pytest.mark.parametrize(
    ("changes", "holds"), [({}, True), ({"ImageID": "ami-1"}, False), ({"ImageId": 18.04}, False)]
)
def test_aws_knows_every_field_of_a_node(changes, holds):
    model = botocore.session.get_session().get_service_model("ec2")
    request = model.operation_model("RunInstances").input_shape
    for kind in cluster()["available_node_types"].values():
        node = {**kind["node_config"], "MinCount": 1, "MaxCount": 1, **changes}
        assert ParamValidator().validate(node, request).has_errors() != holds


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


WHOLE, TEXT, SWITCH = ({"type": kind} for kind in ("integer", "string", "boolean"))
NUMBER, ANY = {"type": "number"}, {}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def fields(required: str = "", /, **known: dict) -> dict:
    return {
        "type": "object",
        "properties": known,
        "required": required.split(),
        "additionalProperties": False,
    }


def each(item: dict) -> dict:
    return {"type": "array", "items": item, "minItems": 1}


# Of Kubernetes' own types (v1 core), only the fields that are used here.
PODS = fields(
    "spec",
    spec=fields(
        "containers",
        containers=each(
            fields(
                "name image",
                name=TEXT,
                image=TEXT,
                envFrom=each(fields(secretRef=fields("name", name=TEXT, optional=SWITCH))),
                resources=fields(requests=TEXTS, limits=TEXTS),
            )
        ),
        tolerations=each(
            fields(
                key=TEXT,
                operator={"enum": ["Exists", "Equal"]},
                value=TEXT,
                effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                tolerationSeconds=WHOLE,
            )
        ),
    ),
)
GROUP = {"template": PODS, "resources": TEXTS, "labels": TEXTS, "rayStartParams": TEXTS}
# All fields of ray.io/v1 in KubeRay v1.6.2, as its reference lists them (docs/reference/api.md
# there, which is made from the types that the CRD is made from).
RAY_CLUSTER_SPEC = fields(
    "headGroupSpec",
    upgradeStrategy=ANY,
    authOptions=fields(
        mode={"enum": ["disabled", "token"]}, secretName=TEXT, enableK8sTokenAuth=SWITCH
    ),
    suspend=SWITCH,
    managedBy=TEXT,
    autoscalerOptions=fields(
        resources=ANY,
        image=TEXT,
        imagePullPolicy=TEXT,
        securityContext=ANY,
        idleTimeoutSeconds=WHOLE,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        version={"enum": ["v1", "v2"]},
        env=ANY,
        envFrom=ANY,
        volumeMounts=ANY,
    ),
    headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=SWITCH,
    gcsFaultToleranceOptions=ANY,
    headGroupSpec=fields(
        "template", headService=ANY, enableIngress=SWITCH, serviceType=TEXT, **GROUP
    ),
    rayVersion=TEXT,
    workerGroupSpecs=each(
        fields(
            "groupName template",
            suspend=SWITCH,
            groupName=TEXT,
            replicas=WHOLE,
            minReplicas=WHOLE,
            maxReplicas=WHOLE,
            idleTimeoutSeconds=WHOLE,
            scaleStrategy=ANY,
            numOfHosts=WHOLE,
            **GROUP,
        )
    ),
)
RAY_JOB = fields(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=fields(name=TEXT, generateName=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS),
    spec=fields(
        activeDeadlineSeconds=WHOLE,
        backoffLimit=WHOLE,
        rayClusterSpec=RAY_CLUSTER_SPEC,
        submitterPodTemplate=PODS,
        metadata=TEXTS,
        clusterSelector=TEXTS,
        submitterConfig=fields(backoffLimit=WHOLE),
        managedBy=TEXT,
        deletionStrategy=ANY,
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        jobId=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        entrypointResources=TEXT,
        entrypointNumCpus=NUMBER,
        entrypointNumGpus=NUMBER,
        ttlSecondsAfterFinished=WHOLE,
        preRunningDeadlineSeconds=WHOLE,
        shutdownAfterJobFinishes=SWITCH,
        suspend=SWITCH,
    ),
)
# Releases of KubeRay, and what they brought: a cluster with an older one drops the field silently.
BROUGHT = {
    "1.5.0": {"labels", "resources", "SidecarMode"},
    "1.5.1": {"authOptions", "mode"},
    "1.6.0": {"secretName", "enableK8sTokenAuth", "upgradeStrategy", "preRunningDeadlineSeconds"},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "rayClusterSpec", "authOptions", "secret"), "x"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "Token"),
        (("spec", "rayClusterSpec", "headGroupSpec", "replicas"), 1),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-gpus"), 0),
        (("spec", "backoffLimit"), "3"),
        (("spec", "backOffLimit"), 3),
        (("spec", "submissionMode"), "K8SJobMode"),
        (("kind",), "RayCluster"),
    ],
    ids=lambda value: ".".join(value[-2:]) if isinstance(value, tuple) else "",
)
def test_kuberay_knows_every_field_and_none_of_broken_copies(path, value):
    jsonschema.validate(rayjob(), RAY_JOB)
    broken = rayjob()
    *parents, last = path
    place = broken
    for name in parents:
        place = place[name]
    place[last] = value
    with pytest.raises(ValidationError):
        jsonschema.validate(broken, RAY_JOB)


def test_the_version_of_kuberay_that_is_asked_for_has_every_field():
    text = (REPOSITORY / "docs/kubernetes/rayjob.yaml").read_text()
    asked = Version(re.search(r"KubeRay \(v(\S+) or newer", text)[1])
    words = set(re.findall(r"\w+", yaml.safe_dump(rayjob()["spec"])))
    newest = max(Version(release) for release, brought in BROUGHT.items() if brought & words)
    assert asked == newest == Version("1.6.0")


def test_the_operators_own_rules_hold():
    """Refusals of KubeRay although each field is right, and the key that it reads."""
    spec = rayjob()["spec"]
    ray = spec["rayClusterSpec"]
    assert Version(ray["rayVersion"]) >= Version("2.52.0")
    assert "enableK8sTokenAuth" not in ray["authOptions"]  # not for jobs, nor beside a secret
    assert spec["shutdownAfterJobFinishes"] or not spec["ttlSecondsAfterFinished"]
    assert spec["activeDeadlineSeconds"] > 0 <= spec["backoffLimit"]
    secret = f"create secret generic {ray['authOptions']['secretName']} --from-literal=auth_token="
    assert secret in (REPOSITORY / "docs/kubernetes/rayjob.yaml").read_text()


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
