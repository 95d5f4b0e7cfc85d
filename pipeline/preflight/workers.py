"""Checks of the cluster: its CPUs and GPUs, its token, and the weights on one of its workers."""

import platform
from collections.abc import Mapping

from models.errors import JobError
from pipeline.cluster.executor import Executor
from pipeline.cluster.resources import plan_resources
from pipeline.cluster.token import authentication
from pipeline.config import VotesConfig
from pipeline.preflight.findings import Caution
from pipeline.runs.defense import Defense
from pipeline.runs.numerics import Numerics

_MANY_UNITS = 2**31  # never the reason for fewer actors


def check_token(address: str | None) -> str:
    """Demand token authentication where ``address`` is of another machine.

    A token that others on this machine may read is a caution and no refusal: the network is closed
    to all others, and a secret that Kubernetes mounts for a user other than root cannot be 0600.

    Raises:
        JobError: There is no token, or the mode is left open.
    """
    said, readable = authentication(address)
    return Caution(said) if readable else said


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
