"""The votes job: list images, work out which run they make, bring it to its end."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

from rich.console import Console

from pipeline.config import ConfigError, OutputConfig, VotesConfig
from pipeline.runs.defense import Defense
from pipeline.runs.error_images import ErrorImages
from pipeline.runs.lease import Lease, hold_lease
from pipeline.runs.manifest import Manifest, new_manifest
from pipeline.runs.numerics import (
    Machine,
    Numerics,
    on_cluster,
    probe_machine,
    require_one_gpu_model,
    resolve_numerics,
)
from pipeline.runs.schema import MAX_CLASSES
from pipeline.runs.store import VotesStore
from pipeline.runs.weight_files import local_weights
from pipeline.sources.base import SourceOptions
from pipeline.sources.listing import Listing, list_images
from pipeline.sources.listing_cache import ListingCache, cached_listing
from pipeline.voting.job import Finished, VotesJob, check_images, finish_run


@dataclass(frozen=True, kw_only=True)
class VotesOutcome:
    """Result of a votes job.

    Attributes:
        run_id: The run.
        images: Images of the run.
        voted: Images this call computed votes for; 0 if all was there already.
        seconds: Time of this call's voting.
        error_images: Images of the run that have an error in place of votes.
    """

    run_id: str
    images: int
    voted: int
    seconds: float
    error_images: ErrorImages


@dataclass(frozen=True, kw_only=True)
class VotesPlan:
    """Work of a votes job, known before anything is computed or written.

    Attributes:
        config: The request.
        defense: The request with everything filled in.
        listing: Every image of the run.
        numerics: Arithmetic of the run.
        wanted: The manifest that the run would be begun with.
        store: Where its votes lie, or would.
    """

    config: VotesConfig
    defense: Defense
    listing: Listing
    numerics: Numerics
    wanted: Manifest
    store: VotesStore


def plan_votes(
    config: VotesConfig, defense: Defense, output: OutputConfig, memory: ListingCache
) -> VotesPlan:
    """List the images and work out which run they make.

    Raises:
        ConfigError, SourceError: The request is wrong.
    """
    if defense.network.num_classes > MAX_CLASSES:
        raise ConfigError(
            f"--num-classes {defense.network.num_classes}: votes name at most {MAX_CLASSES}"
        )
    options = source_options(config, defense)
    with Console(stderr=True).status("listing images"):
        listing = list_images(config.data, options, defense.network.num_classes, memory).head(
            config.limit
        )
    numerics = resolve_numerics(config, machine_that_votes(config, verbose=output.verbose))
    wanted = new_manifest(config, defense, numerics, listing)
    return VotesPlan(
        config=config,
        defense=defense,
        listing=listing,
        numerics=numerics,
        wanted=wanted,
        store=VotesStore(output.out, wanted.run_id),
    )


def source_options(config: VotesConfig, defense: Defense) -> SourceOptions:
    """Options of the source of a votes job."""
    return SourceOptions(
        image_column=config.image_column,
        label_column=config.label_column,
        label_map=config.label_map,
        ground_truth=config.ground_truth,
        numbering=config.numbering,
        classes=defense.network.classes,
    )


def count_votes(config: VotesConfig, defense: Defense, output: OutputConfig) -> VotesOutcome:
    """Vote on every image of the source that has no votes yet, and store the votes.

    Args:
        config: What votes, on what.
        defense: ``config`` with everything filled in.
        output: Where votes go.

    Raises:
        ConfigError, SourceError, WeightsError, UnknownModelError: The request is wrong.
        LeaseError: Another job is at the same run, and the request is not to wait for it.
        ManifestError, StoreError, JobError: The job failed.
    """
    with joined(verbose=output.verbose):
        plan = open_plan(config, defense, output)
        if (known := found_votes(plan)) is not None:
            return known
        with hold(plan) as lease:
            return vote(plan, lease, verbose=output.verbose)


@contextmanager
def joined(*, verbose: bool) -> Iterator[None]:
    """Be in the cluster that a job runs on, from its first question to its last unit.

    Each time Ray is joined it starts other workers, all of which would import torch again.
    """
    if not on_cluster():
        yield
        return
    from pipeline.cluster.connect import ray_cluster  # noqa: PLC0415  (Ray takes a second to import)

    with ray_cluster(verbose=verbose):
        yield


def open_plan(config: VotesConfig, defense: Defense, output: OutputConfig) -> VotesPlan:
    """List the images with the listing that is kept beside the runs, and try new weights.

    Raises:
        ConfigError, SourceError, WeightsError, UnknownModelError: The request is wrong.
    """
    options = source_options(config, defense)
    with cached_listing(output.out, config.data, options) as memory:
        plan = plan_votes(config, defense, output, memory)
        if config.overwrite or plan.store.read_manifest() is None:
            # Weights that do not load should fail here, in words, before anything is written.
            _try_weights(defense, plan.numerics)
    return plan


def found_votes(plan: VotesPlan) -> VotesOutcome | None:
    """Return the outcome of a run that is finished and kept; None if there is work to do.

    Raises:
        ManifestError: The stored run has another number of images.
    """
    # Read once: from here on another job may overwrite the run, and what is said is of this one.
    found = None if plan.config.overwrite else plan.store.finished()
    if found is None:
        return None
    check_images(found, len(plan.listing), plan.store.manifest_path)
    return _outcome(plan, Finished(found, 0, 0.0))


def hold(plan: VotesPlan) -> AbstractContextManager[Lease]:
    """Hold the lease of the run of a plan."""
    store = plan.store
    return hold_lease(store.lease_path, f"run_id={store.run_id}", wait=plan.config.wait)


def vote(plan: VotesPlan, lease: Lease, *, verbose: bool) -> VotesOutcome:
    """Vote on the images of a plan that have no votes yet, under the lease of the run.

    Raises:
        ManifestError, StoreError, LeaseError, JobError: The job failed; running again resumes.
    """
    print(*plan.listing.words(), sep="\n", file=sys.stderr)
    job = VotesJob(
        defense=plan.defense,
        numerics=plan.numerics,
        options=source_options(plan.config, plan.defense),
        store=plan.store,
        lease=lease,
        config=plan.config,
    )
    return _outcome(plan, finish_run(job, plan.wanted, plan.listing, verbose=verbose))


def _outcome(plan: VotesPlan, done: Finished) -> VotesOutcome:
    errors = done.manifest.execution.error_images
    assert errors is not None, "a finished run knows its errors"
    return VotesOutcome(
        run_id=plan.store.run_id,
        images=len(plan.listing),
        voted=done.voted,
        seconds=done.seconds,
        error_images=errors,
    )


def _try_weights(defense: Defense, numerics: Numerics) -> None:
    from pipeline.voting.vote import build_classifier  # noqa: PLC0415  (it imports torch)

    with _flags_named():
        build_classifier(defense, _on_driver(numerics))


def check_weights_header(defense: Defense) -> None:
    """Refuse a network that timm has not, or weights that are not its own, and load nothing.

    Raises:
        ConfigError, WeightsError, UnknownModelError: The request is wrong.
    """
    from models.networks.zoo import check_weights  # noqa: PLC0415  (it imports torch)

    with _flags_named():
        check_weights(
            defense.network.name,
            defense.network.num_classes,
            local_weights(defense.network.weights),
            defense.model_input.model_px,
        )


@contextmanager
def _flags_named() -> Iterator[None]:
    """Of sizes that disagree, models speak of networks, users of flags."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ConfigError(f"{error}; check --model, --preprocess and --crop") from error


def machine_that_votes(config: VotesConfig, *, verbose: bool) -> Machine:
    """The machine that votes: a worker of the cluster that a job runs on, or this one.

    Raises:
        ConfigError: There is no such device, or devices of several models.
    """
    if not on_cluster():
        machine = probe_machine(config.device)
        if machine.device == "cuda":
            require_one_gpu_model()
        return machine
    from pipeline.cluster.connect import probe_worker  # noqa: PLC0415  (Ray takes a second to import)

    return probe_worker(config.device, verbose=verbose, accelerator_type=config.accelerator_type)


def _on_driver(numerics: Numerics) -> Numerics:
    """The same arithmetic on the driver's CPU, to try whether weights load."""
    return replace(numerics, device="cpu", dtype="float32")
