"""Executor of a job: this process, a Ray of this machine, or the cluster that is named.

Ray takes a second to import, and is imported when it is first needed.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

from pipeline.cluster.session import one_ray
from pipeline.config import ConfigError, Device
from pipeline.runs.numerics import Machine, probe_machine, require_one_gpu_model
from pipeline.runs.waiting import say_stages
from pipeline.storage.addresses import redact

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True, kw_only=True)
class Executor:
    """Ray that a job runs on, or this process.

    Attributes:
        address: The cluster to join; None for a Ray of this machine, started when it is needed.
        verbose: Show Ray's own log.
        in_process: Compute in this process, one unit after the other, without Ray.
    """

    address: str | None = None
    verbose: bool = False
    in_process: bool = False

    def join(self) -> AbstractContextManager[Mapping[str, float]]:
        """Join the cluster, or start a local one, for the block; yields its resources."""
        if self.in_process:
            return nullcontext(_ONE_ACTOR)
        from pipeline.cluster.connect import ray_cluster  # noqa: PLC0415

        return ray_cluster(self.address, verbose=self.verbose)

    @contextmanager
    def join_for_job(self) -> Iterator[None]:
        """Use one Ray for all of a job: a cluster starts other workers each time it is joined.

        A local one is started when it is first needed: a job may find that no votes are missing.
        """
        with one_ray(), self.join() if self.address else nullcontext():
            yield

    def rejoin(self) -> None:
        """Leave and join again, so that nothing of a pass that failed lives on."""
        assert not self.in_process, "no worker of this process can die and leave it"
        from pipeline.cluster.connect import rejoin  # noqa: PLC0415

        rejoin(self.address, verbose=self.verbose)

    def probe(self, device: Device, accelerator_type: str | None = None) -> Machine:
        """Find the machine that votes: a worker of the cluster, or this one.

        Raises:
            ConfigError: There is no such device, or devices of several models.
        """
        if self.address:
            from pipeline.cluster.connect import probe_worker  # noqa: PLC0415

            return probe_worker(self.address, device, accelerator_type, verbose=self.verbose)
        machine = probe_machine(device)
        if machine.device == "cuda":
            require_one_gpu_model()
        return machine

    def map(self, task: Callable[[_In], _Out], items: Iterable[_In]) -> Iterable[_Out]:
        """Apply a function to every item as tasks of one CPU; as the built-in, in any order."""
        if self.in_process:
            return map(task, items)
        from pipeline.cluster.tasks import map_on_ray  # noqa: PLC0415

        return map_on_ray(self.address, task, items, verbose=self.verbose)


LOCAL = Executor()
"""A Ray of this machine."""

IN_PROCESS = Executor(in_process=True)
"""This process."""

# What one copy of the network and the tasks beside it reserve.
_ONE_ACTOR = {"CPU": 2.0, "GPU": 1.0}


def find_executor(*, verbose: bool, no_ray: bool = False) -> Executor:
    """Decide on the executor from RAY_ADDRESS, which Ray sets for submitted jobs.

    Args:
        verbose: Show Ray's own log, and say how long each stage took.
        no_ray: Compute in this process.

    Raises:
        ConfigError: RAY_ADDRESS is no address which a job can join, or is not to be joined.
    """
    address = os.environ.get("RAY_ADDRESS")
    if no_ray and address not in (None, "", "local"):
        raise ConfigError(
            f"--no-ray: RAY_ADDRESS={redact(address)} names a cluster; leave --no-ray out to "
            "compute there, or unset RAY_ADDRESS"
        )
    if address not in (None, "local", "auto") and not _is_address(address):
        raise ConfigError(
            f"RAY_ADDRESS={redact(address)}: give HOST:PORT of the cluster to join (Ray's own "
            "port, mostly 6379; a dashboard's http:// address is for patchcert submit --address), "
            "or unset RAY_ADDRESS to compute on this machine"
        )
    if verbose:
        say_stages()
    address = None if address == "local" else address
    return Executor(address=address, verbose=verbose, in_process=no_ray)


def _is_address(address: str) -> bool:
    try:
        parts = urlsplit(address if "://" in address else f"ray://{address}")
        return parts.scheme == "ray" and bool(parts.hostname) and parts.port is not None
    except ValueError:  # no port is a word
        return False
