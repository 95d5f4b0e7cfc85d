"""The votes job: list images, find or begin their run, send what is missing through the cluster."""

import dataclasses
import time
from dataclasses import dataclass

import pyarrow as pa

from pipeline.committing import CommitUnit
from pipeline.config import ConfigError, OutputConfig, VotesConfig
from pipeline.decoding import DecodeUnit
from pipeline.identity import execution, finished, identity
from pipeline.manifest import Manifest, ManifestError
from pipeline.numerics import Machine, Numerics, on_cluster, probe_machine, resolve_numerics
from pipeline.progress import VotesProgress
from pipeline.resolve import Voter
from pipeline.schema import MAX_CLASSES
from pipeline.sources.listing import SourceOptions, list_images
from pipeline.store import StoreError, VotesStore


@dataclass(frozen=True, kw_only=True)
class VotesOutcome:
    """What a votes job did.

    Attributes:
        run_id: The run.
        images: Images of the run.
        voted: Images this call computed votes for; 0 if all was there already.
        seconds: Time of this call's voting.
    """

    run_id: str
    images: int
    voted: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What the stages of one votes job share."""

    voter: Voter
    numerics: Numerics
    options: SourceOptions
    store: VotesStore
    units: list[pa.Table]
    schema: pa.Schema
    votes_per_image: int


def count_votes(config: VotesConfig, voter: Voter, output: OutputConfig) -> VotesOutcome:
    """Vote on every image of the source that has no votes yet, and store the votes.

    Raises:
        ConfigError, SourceError, WeightsError, UnknownModelError: The request is wrong.
        ManifestError, StoreError, JobError: The job failed.
    """
    if voter.num_classes > MAX_CLASSES:
        raise ConfigError(f"--num-classes {voter.num_classes}: votes name at most {MAX_CLASSES}")
    options = SourceOptions(
        image_column=config.image_column,
        label_column=config.label_column,
        label_map=config.label_map,
        ground_truth=config.ground_truth,
        numbering=config.numbering,
        classes=voter.classes,
    )
    listing = list_images(config.data, options, voter.num_classes).head(config.limit)
    numerics = resolve_numerics(config, _machine(config, verbose=output.verbose))
    wanted = Manifest(
        identity=identity(config, voter, numerics, listing),
        execution=execution(config, len(listing)),
    )
    store = VotesStore(output.out, wanted.run_id)
    if config.overwrite or store.read_manifest() is None:
        # Weights that do not load should fail here, in words, before anything is written.
        from pipeline.voting import build_classifier  # noqa: PLC0415

        try:
            build_classifier(voter, _on_driver(numerics))
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            # Sizes that disagree: models speak of networks, users of flags.
            raise ConfigError(f"{error}; check --model, --preprocess and --crop") from error
    manifest = open_run(store, wanted, overwrite=config.overwrite)
    units = plan_units(listing.table, int(manifest.execution["unit_images"]))
    pending = [units[number] for number in store.missing(manifest)]
    seconds = 0.0
    if pending:
        job = _Job(
            voter=voter,
            numerics=numerics,
            options=options,
            store=store,
            units=units,
            schema=manifest.schema,
            votes_per_image=manifest.votes_per_image,
        )
        seconds = _vote_on(job, pending, actors=config.actors, verbose=output.verbose)
        missing = store.missing(manifest)
        if missing:
            raise StoreError(
                f"run_id={store.run_id}: {len(missing)} of {len(units)} units were not committed; "
                "run again to resume"
            )
        store.write_manifest(finished(manifest, seconds))
    voted = sum(unit.num_rows for unit in pending)
    return VotesOutcome(run_id=store.run_id, images=len(listing), voted=voted, seconds=seconds)


def _machine(config: VotesConfig, *, verbose: bool) -> Machine:
    """The machine that votes: a worker of the cluster that a job runs on, or this one."""
    if not on_cluster():
        return probe_machine(config.device)
    from pipeline.cluster import probe_worker  # noqa: PLC0415  (Ray takes a second to import)

    return probe_worker(config.device, verbose=verbose)


def _on_driver(numerics: Numerics) -> Numerics:
    """The same arithmetic on the driver's CPU, to try whether weights load."""
    return dataclasses.replace(numerics, device="cpu", dtype="float32")


def _vote_on(job: _Job, pending: list[pa.Table], *, actors: int | None, verbose: bool) -> float:
    """Send pending units through the cluster; the seconds it took."""
    # Ray is not needed to say that a run is finished.
    from pipeline.cluster import plan_share, ray_cluster, run_units  # noqa: PLC0415

    unit_rows = [unit.num_rows for unit in job.units]
    done = sum(unit_rows) - sum(unit.num_rows for unit in pending)
    with ray_cluster(verbose=verbose) as available:
        share = plan_share(available, job.numerics, actors, len(pending))
        start = time.monotonic()
        with VotesProgress(sum(unit_rows), done) as progress:
            for receipts in run_units(
                pending,
                DecodeUnit(job.options, job.voter.preprocess),
                {"voter": job.voter, "numerics": job.numerics, "schema": job.schema},
                CommitUnit(job.store, unit_rows, job.schema, job.votes_per_image),
                share,
                verbose=verbose,
            ):
                for receipt in receipts.to_pylist():
                    progress.add(receipt["images"], receipt["errors"])
        return time.monotonic() - start


def plan_units(table: pa.Table, unit_images: int) -> list[pa.Table]:
    """Cut a listing into units of ``unit_images`` rows, each with its number in ``unit``."""
    starts = range(0, table.num_rows, unit_images)
    units = []
    for number, start in enumerate(starts):
        rows = table.slice(start, unit_images)
        units.append(rows.append_column("unit", pa.array([number] * rows.num_rows, pa.int64())))
    return units


def open_run(store: VotesStore, wanted: Manifest, *, overwrite: bool) -> Manifest:
    """Find or begin a run; the manifest on disk wins, since its units are.

    Raises:
        ManifestError: The manifest on disk contradicts its id or the listing.
    """
    if overwrite:
        store.delete()
    # Of two starts at once the first decides how units are cut; the other reads what it wrote.
    found = store.read_manifest() or store.create_manifest(wanted)
    listed = wanted.execution["images"]
    if found.execution.get("images") != listed:
        raise ManifestError(
            f"{store.manifest_path}: execution.images says {found.execution.get('images')}, the "
            f"source lists {listed}; run again with --overwrite"
        )
    return found
