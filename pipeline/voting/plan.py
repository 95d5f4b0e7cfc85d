"""The votes job: list images, work out which run they make, bring it to its end."""

import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

from pipeline.cluster.executor import LOCAL, Executor
from pipeline.cluster.resources import BLOCK_BYTES
from pipeline.cluster.session import check_session
from pipeline.config import ConfigError, OutputConfig, VotesConfig
from pipeline.runs.defense import Defense
from pipeline.runs.error_images import ErrorImages
from pipeline.runs.lease import hold_lease
from pipeline.runs.manifest import Manifest, new_manifest
from pipeline.runs.numerics import Numerics, resolve_numerics
from pipeline.runs.schema import MAX_CLASSES
from pipeline.runs.store import VotesStore
from pipeline.runs.waiting import waiting
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
        executor: Where it votes.
    """

    config: VotesConfig
    defense: Defense
    listing: Listing
    numerics: Numerics
    wanted: Manifest
    store: VotesStore
    executor: Executor


def plan_each(
    requests: Iterable[tuple[VotesConfig, Defense]],
    output: OutputConfig,
    executor: Executor,
    *,
    keep: bool = True,
) -> Iterator[VotesPlan]:
    """Plan requests for one source, whose files are read once.

    Args:
        requests: The requests, each with everything filled in.
        output: Where votes go.
        executor: Where they are computed.
        keep: Keep the listing beside the runs, for the next job.

    Raises:
        ConfigError, SourceError: A request is wrong.
    """
    requests = list(requests)
    options = source_options(*requests[0])
    with cached_listing(output.out, requests[0][0].data, options, keep=keep) as first:
        memory = first
        for config, defense in requests:
            yield plan_votes(config, defense, output, executor, memory)
            # What was read for one need not be read for the next.
            memory = ListingCache(known={**first.known, **first.found})


def plan_votes(
    config: VotesConfig,
    defense: Defense,
    output: OutputConfig,
    executor: Executor,
    memory: ListingCache,
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
    with waiting("listing images"):
        listing = list_images(
            config.data,
            options,
            defense.network.num_classes,
            memory,
            spread=None if executor.in_process else executor.map,
        ).head(config.limit)
    machine = executor.probe(config.device, config.accelerator_type)
    numerics = resolve_numerics(config, machine, defense)
    wanted = new_manifest(config, defense, numerics, listing)
    _check_unit(wanted)
    return VotesPlan(
        config=config,
        defense=defense,
        listing=listing,
        numerics=numerics,
        wanted=wanted,
        store=VotesStore(output.out, wanted.run_id),
        executor=executor,
    )


def _check_unit(wanted: Manifest) -> None:
    """Raise ConfigError unless the pixels of a unit fit into one block, which Ray would split."""
    unit_images = wanted.execution.unit_images
    image_bytes = 3 * math.prod(wanted.defense.model_input.model_px)
    if unit_images * image_bytes > BLOCK_BYTES:
        gib = unit_images * image_bytes / 2**30
        raise ConfigError(
            f"--unit-images {unit_images}: their pixels take {gib:.1f} GiB, and a unit has at most "
            f"2; give at most {BLOCK_BYTES // image_bytes}"
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


def count_votes(
    config: VotesConfig, defense: Defense, output: OutputConfig, executor: Executor = LOCAL
) -> VotesOutcome:
    """Vote on every image of the source that has no votes yet, and store the votes.

    Args:
        config: What votes, on what.
        defense: ``config`` with everything filled in.
        output: Where votes go.
        executor: Where they are computed.

    Raises:
        ConfigError, SourceError, WeightsError, UnknownModelError: The request is wrong.
        LeaseError: Another job is at the same run, and the request is not to wait for it.
        ManifestError, StoreError, JobError: The job failed; running again resumes.
    """
    plan = open_plan(config, defense, output, executor)
    return found_votes(plan) or vote(plan, nullcontext())


def open_plan(
    config: VotesConfig, defense: Defense, output: OutputConfig, executor: Executor
) -> VotesPlan:
    """Plan a request, and try weights that are new.

    Raises:
        ConfigError, SourceError, WeightsError, UnknownModelError: The request is wrong.
    """
    (plan,) = plan_each([(config, defense)], output, executor)
    if config.overwrite or plan.store.read_manifest() is None:
        # Weights that do not load should fail here, in words, before a run is begun.
        if not executor.in_process:
            check_session()  # weights can take minutes, and Ray would fail after them
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


def vote(plan: VotesPlan, tracked: AbstractContextManager[object]) -> VotesOutcome:
    """Vote on the images of a plan that have no votes yet.

    Args:
        plan: The plan.
        tracked: Entered once the lease of the run is held.

    Raises:
        ManifestError, StoreError, LeaseError, JobError: The job failed; running again resumes.
    """
    print(*plan.listing.words(), sep="\n", file=sys.stderr)
    store = plan.store
    holding = hold_lease(store.lease_path, f"run_id={store.run_id}", wait=plan.config.wait)
    with holding as lease, tracked:
        job = VotesJob(
            defense=plan.defense,
            numerics=plan.numerics,
            options=source_options(plan.config, plan.defense),
            store=store,
            lease=lease,
            config=plan.config,
            executor=plan.executor,
        )
        return _outcome(plan, finish_run(job, plan.wanted, plan.listing))


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

    with _flags_named(), waiting("loading the network"):
        build_classifier(defense, _on_driver(numerics))


def check_weights_header(defense: Defense) -> None:
    """Refuse what would not load to vote; the weights are read, and no network is made of them.

    Raises:
        ConfigError, WeightsError, UnknownModelError, UnsupportedModelError: The request is wrong.
    """
    from models.classifiers.build import base_classifier  # noqa: PLC0415  (it imports torch)
    from models.networks.zoo import check_weights  # noqa: PLC0415

    with _flags_named():
        outline = check_weights(
            defense.network.name,
            defense.network.num_classes,
            local_weights(defense.network.weights),
            defense.model_input.model_px,
        )
        base_classifier(outline, defense.views, defense.model_input, defense.tokens)


@contextmanager
def _flags_named() -> Iterator[None]:
    """Of sizes that disagree, models speak of networks, users of flags."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ConfigError(f"{error}; check --model, --preprocess and --crop") from error


def _on_driver(numerics: Numerics) -> Numerics:
    """The same arithmetic on the driver's CPU, to try whether weights load."""
    return replace(numerics, device="cpu", dtype="float32")
