"""Checks of the cluster: its CPUs and GPUs, its token, and the weights on one of its workers."""

import os
import platform
import stat
from collections.abc import Mapping
from urllib.parse import urlsplit

from models.errors import JobError
from pipeline.cluster.executor import Executor
from pipeline.cluster.resources import plan_resources
from pipeline.config import VotesConfig
from pipeline.preflight.findings import Caution, CheckError
from pipeline.runs.defense import Defense
from pipeline.runs.numerics import Numerics

_LOOPBACK = ("localhost", "127.0.0.1", "::1", "local", "auto")
_MODE = "RAY_AUTH_MODE"
_MANY_UNITS = 2**31  # never the reason for fewer actors


def check_token(address: str | None) -> str:
    """Demand token authentication where ``address`` is of another machine.

    Whoever reaches Ray's port runs code as its user: a cluster without a token is open to all who
    do. ``RAY_AUTH_MODE=disabled``, set explicitly, says that the network is closed otherwise.

    A token that others on this machine may read is a caution and no refusal: the network is closed
    to all others, and a secret that Kubernetes mounts for a user other than root cannot be 0600.

    Raises:
        CheckError: There is no token, or the mode is left open.
    """
    if not address or _host(address) in _LOOPBACK:
        return "no other machine is spoken to"
    mode = os.environ.get(_MODE)
    if mode == "disabled":
        return f"switched off ({_MODE}=disabled): whoever reaches {_host(address)} can run code"
    if mode != "token":
        raise CheckError(
            f"{_host(address)} is another machine and {_MODE} is not set: set {_MODE}=token there "
            f"and here, with one token (`ray get-auth-token --generate`); {_MODE}=disabled "
            "accepts a cluster that anyone who reaches it can use"
        )
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "token authentication"
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    if not os.path.isfile(path):
        raise CheckError(
            f"{_MODE}=token, but there is no token: put the cluster's into ~/.ray/auth_token "
            "(mode 0600), or into RAY_AUTH_TOKEN"
        )
    rights = stat.S_IMODE(os.stat(path).st_mode)
    if rights & 0o077:
        return Caution(
            f"token authentication, but {path} has mode {rights:04o}: whoever else may read it can "
            f"run code on the cluster; chmod 600 {path}"
        )
    return "token authentication"


def _host(address: str) -> str:
    if address in _LOOPBACK:
        return address
    return urlsplit(address if "://" in address else f"//{address}").hostname or address


def check_budget(
    config: VotesConfig, numerics: Numerics, available: Mapping[str, float], executor: Executor
) -> str:
    """Divide the cluster as the job would.

    Raises:
        ConfigError: It has too few CPUs or GPUs, or GPUs of several models.
    """
    share = plan_resources(available, numerics, config.actors, _MANY_UNITS, config.accelerator_type)
    where = "the cluster" if executor.address else "this machine"
    gpus = f" and {available['GPU']:g} GPUs" if available.get("GPU") else ""
    return (
        f"{where} has {available.get('CPU', 0):g} CPUs{gpus}; actors: {share.actors} on "
        f"{numerics.device_model}, each reserving {share.cpus:g} CPUs"
    )


def try_weights_on_worker(
    config: VotesConfig, defense: Defense, numerics: Numerics, executor: Executor
) -> str:
    """Load the network on a worker, with the digests that the driver has seen.

    Raises:
        JobError: It does not load there, or is not the same.
    """
    node, _ = _on_worker(config, defense, numerics, executor, bits=False)
    return (
        f"{defense.network.name}, sha256 {defense.network.weights_sha256[:12]}..., loads on {node}"
    )


def try_bits_on_worker(
    config: VotesConfig, defense: Defense, numerics: Numerics, executor: Executor
) -> str:
    """Look on a worker for a slot or a neighbour that changes a view's logits.

    Raises:
        JobError: There is one, or the network does not load.
    """
    node, passes = _on_worker(config, defense, numerics, executor, bits=True)
    return (
        f"equal at every slot of {numerics.microbatch}, beside NaN, infinity, noise and another "
        f"image, at every token count: {passes:,} passes in {numerics.dtype} on "
        f"{numerics.device_model}, {node}"
    )


def _on_worker(
    config: VotesConfig, defense: Defense, numerics: Numerics, executor: Executor, *, bits: bool
) -> tuple[str, int]:
    import ray  # noqa: PLC0415  (it takes a second to import)
    from ray.exceptions import RayError  # noqa: PLC0415

    from pipeline.cluster.connect import one_worker  # noqa: PLC0415
    from pipeline.cluster.errors import error_text  # noqa: PLC0415

    with executor.join():
        needs = one_worker(numerics.device == "cuda", config.accelerator_type)
        task = ray.remote(_load).options(**needs)
        try:
            found: tuple[str, int] = ray.get(task.remote(defense, numerics, bits))
        except RayError as error:
            raise JobError(error_text(error)) from error
    return found


def _load(defense: Defense, numerics: Numerics, bits: bool) -> tuple[str, int]:
    """Load the network here; the name of this node, and the passes of a look at the bits."""
    from models.classifiers.bits import passes  # noqa: PLC0415  (torch)
    from pipeline.voting.vote import build_classifier, check_bits, check_worker  # noqa: PLC0415

    check_worker(defense, numerics)
    classifier = build_classifier(defense, numerics)
    if not bits:
        return platform.node(), 0
    check_bits(classifier, thorough=True)
    return platform.node(), passes(classifier.classifier, classifier.microbatch)
