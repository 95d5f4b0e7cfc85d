"""Cost of a votes job without pixels and network, at several numbers of images; printed as JSON.

``make bench-control-plane``, or ``python -m tests.benchmarks.control_plane IMAGES ...``; and with
``listing`` in place of the numbers, the cost of listing in tasks on one and on two raylets, with
``memory`` the driver's memory for a listing.
Listing, planning, Ray, reading, committing, counting and resuming are the job's own code; images
are read and not decoded, and votes are made up from their ids. Each job is a process of its own, so
that its peak memory is its own.
"""

import hashlib
import io
import json
import os
import secrets
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from models.classifiers.smoothed import BatchVotes
from models.preprocess import PRESETS
from models.views.ablations import Ablation
from pipeline.bench.hardware import hardware
from pipeline.cluster.executor import Executor
from pipeline.config import OutputConfig, VotesConfig
from pipeline.runs.defense import Defense, Network
from pipeline.runs.lease import hold_lease
from pipeline.runs.rows import votes_table
from pipeline.runs.store import VotesStore
from pipeline.sources import listing as listing_module
from pipeline.sources.base import FileNotes, Kind, SourceOptions, raw_listing
from pipeline.sources.listing import Listing, list_images
from pipeline.sources.listing_cache import CachedFile
from pipeline.sources.reading import read_bytes_of
from pipeline.sources.stored_files import StoredFile
from pipeline.storage import parallel
from pipeline.storage.parallel import Spread
from pipeline.voting.commit import addressed
from pipeline.voting.decode import DECODED
from pipeline.voting.isolation import Handler
from pipeline.voting.job import VotesJob, finish_run
from pipeline.voting.plan import plan_each, source_options
from tests.benchmarks.synthetic import synthetic_votes
from tests.conftest import REPOSITORY

_CLASSES, _SIZE, _PX = 1000, 19, 224
_PER_SHARD = 1000
# A listing of files that have just changed is not remembered.
_SETTLE_SECONDS = 3.0
_LISTED_SHARDS, _REPEATS = 200, 3
_REMEMBERED_SHARDS = (100, 1000)
# The driver lists the first shard and hands over all others.
_TASKS_AT_ONCE = {"_THREADS": 1, "_TRIAL_SECONDS": 0.0, "_LEFT_SECONDS": 0.0}
_ENCODED = b"no picture" * 40
_OUT, _DATA, _MEMORY = "out", "data", "actors"


class Read:
    """Reads encoded images and decodes none: the listing's rows, without pixels."""

    def __init__(self, options: SourceOptions) -> None:
        self.options = options

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows of the listing to decoded rows without pixels, in order."""
        encoded = read_bytes_of(rows.drop_columns(["unit"]), self.options)
        assert all(encoded), "every image has bytes"
        nothing = {name: pa.nulls(len(encoded)) for name in ("pixels", "height", "width", "error")}
        columns = {name: nothing[name] if name in nothing else rows[name] for name in DECODED.names}
        return pa.table(columns).cast(DECODED)

    def failed(self, rows: pa.Table, reason: str) -> pa.Table:
        """Not called: nothing here can fail."""
        raise NotImplementedError(reason)


class MadeUp:
    """Votes made up from ids; the actor's peak memory is left in ``folder``."""

    def __init__(self, schema: pa.Schema, views: int, folder: str) -> None:
        self.schema, self.views, self.folder = schema, views, Path(folder)

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Rows without pixels to votes, in order, addressed to their unit."""
        votes_bv = made_up_votes(decoded["image_id"].to_pylist(), self.views)
        ballot = BatchVotes(votes_bv, votes_bv[:, 0])
        table = votes_table(decoded, np.arange(len(votes_bv)), ballot, self.schema)
        (self.folder / str(os.getpid())).write_text(str(peak_mib()))
        return addressed(table, decoded, 0.0)

    def failed(self, rows: pa.Table, reason: str) -> pa.Table:
        """Not called: nothing here can fail."""
        raise NotImplementedError(reason)


def made_up_votes(image_ids: list[str], views: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Votes that look like a network's, the same for the same ids; int64 (B, views)."""
    seed = zlib.crc32("\n".join(image_ids).encode())
    votes = synthetic_votes(len(image_ids), views, _CLASSES, np.random.default_rng(seed))
    return votes.astype(np.int64)


class _Job(VotesJob):
    """The job with the made-up stages."""

    def handlers(self, schema: pa.Schema) -> tuple[Callable[[], Handler], Callable[[], Handler]]:
        folder = os.path.join(os.path.dirname(self.store.out), _MEMORY)
        return (
            partial(Read, self.options),
            partial(MadeUp, schema, len(self.defense.views), folder),
        )


def measure_control_plane(folder: Path, shards: int, per_shard: int) -> dict[str, Any]:
    """Seconds and memory of a first job over ``shards`` tars, and of one that resumes it.

    Args:
        folder: Empty; some 1 kB an image is written there.
        shards: Tar files; they are links to one, since only their names must differ.
        per_shard: Images in each.

    Returns:
        Plain JSON values; memory in MiB, of the driver and of the largest actor.
    """
    _write_shards(folder / _DATA, shards, per_shard)
    (folder / _MEMORY).mkdir()
    first = _in_child("print_job", folder, time.time())
    store = VotesStore(str(folder / _OUT), first["run_id"])
    manifest = store.manifest()
    units = manifest.execution.units
    size = sum(path.stat().st_size for path in Path(store.folder).glob("unit-*.parquet"))
    # As if it had been killed before the last unit.
    execution = replace(manifest.execution, error_images=None)
    store.write_manifest(replace(manifest, execution=execution))
    Path(store.folder, f"unit-{units - 1:05d}.parquet").unlink()
    again = _in_child("print_job", folder, time.time())
    assert again["voted"] == manifest.execution.images - (units - 1) * int(
        manifest.execution.unit_images
    ), "a resume computes what is missing"
    images = shards * per_shard
    return {
        "images": images,
        "shards": shards,
        "units": units,
        "listing_seconds": first["planned"] - first["imported"],
        "voting_seconds": first["voting"],
        "overhead_ms_per_image": 1000 * first["voting"] / images,
        "driver_start_mib": first["start_mib"],
        "driver_planned_mib": first["planned_mib"],
        "driver_peak_mib": first["peak_mib"],
        "actor_peak_mib": max(float(path.read_text()) for path in (folder / _MEMORY).iterdir()),
        "resume_planned_seconds": again["planned"] - again["started"],
        "resume_first_commit_seconds": again["first_commit"] - again["started"],
        "resume_peak_mib": again["peak_mib"],
        "votes_bytes_per_image": size / images,
    }


def peak_mib() -> float:
    """Most memory that this process has held since it began its program, in MiB.

    ``ru_maxrss`` would count what the process was before that: a copy of its parent.
    """
    with open("/proc/self/status", encoding="ascii") as stream:
        (line,) = (line for line in stream if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def measure_listing(
    folder: Path, shards: int, per_shard: int, executor: Executor
) -> dict[str, Any]:
    """Seconds to list tars: by this process's threads, and by tasks on one and on two raylets.

    Tasks list all shards but the first. Workers have listed before, as those have that list many:
    Ray ends one that is idle for a second, so each case comes in a row. Each figure is the least of
    three, since other work disturbs them.

    Args:
        folder: Empty; the shards are written there.
        shards: Tar files; they are links to one, since only their names must differ.
        per_shard: Images in each.
        executor: On two raylets of one CPU each.
    """
    import ray
    from ray.util import placement_group

    _write_shards(folder / _DATA, shards, per_shard)
    seconds: dict[str, list[float]] = {}

    def measure(name: str, spread: Spread | None) -> Listing:
        start = time.monotonic()
        listing = list_images(str(folder / _DATA), SourceOptions(), None, spread=spread)
        seconds.setdefault(name, []).append(time.monotonic() - start)
        return listing

    with executor.join():
        expected = measure("driver", None)
        for _ in range(_REPEATS):
            measure("driver", None)
        vars(parallel).update(_TASKS_AT_ONCE)
        for raylets in (2, 1):
            if raylets == 1:  # no actor, which would take a worker that has listed
                ray.get(placement_group([{"CPU": 1}]).ready())
            for _ in range(1 + _REPEATS):
                listing = measure(f"{raylets} raylets", executor.map)
                assert listing == expected, "tasks list what threads list"
    best = {name: min(several[1:]) for name, several in seconds.items()}
    return {"shards": shards, "images": shards * per_shard, "seconds": best}


@contextmanager
def two_raylets() -> Iterator[Executor]:
    """A cluster of two raylets of one CPU each, for the block."""
    # A job refuses clusters that anyone may use.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    from ray.cluster_utils import Cluster  # reads the token as it is imported

    node = {"num_cpus": 1, "object_store_memory": 200 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        yield Executor(address=cluster.address)
    finally:
        cluster.shutdown()


def measure_memory(folder: Path, shards: int) -> dict[str, Any]:
    """Bytes an image that a listing takes: its table, Arrow's most, and this process's growth.

    The shards are empty; their images are made up, 1,000 a shard, and paths are 47 bytes long.
    """
    places = folder / "data".ljust(max(0, 46 - len(str(folder)) - len("/shard-00000.tar")), "x")
    places.mkdir(parents=True)
    for number in range(shards):
        (places / f"shard-{number:05d}.tar").touch()
    vars(listing_module)["_open"] = _made_up_file
    before = peak_mib()
    listing = list_images(str(places), SourceOptions(), None)
    images = shards * _PER_SHARD
    return {
        "images": images,
        "path_bytes": len(listing.table["file"][0].as_py()),
        "table_bytes_an_image": listing.table.nbytes / images,
        "arrow_peak_bytes_an_image": pa.default_memory_pool().max_memory() / images,
        "grown_mib": peak_mib() - before,
    }


def _made_up_file(kind: Kind, options: SourceOptions, file: StoredFile) -> CachedFile:
    stem = Path(file.path).stem
    rows = [
        (f"{stem}/{number:012d}", str(number), file.path, 1024 * number, len(_ENCODED))
        for number in range(_PER_SHARD)
    ]
    digest = hashlib.sha256(file.path.encode()).hexdigest()
    return CachedFile(digest, raw_listing(list(zip(*rows, strict=True))), FileNotes())


def _write_shards(folder: Path, shards: int, per_shard: int) -> None:
    folder.mkdir(parents=True)
    first = folder / "shard-00000.tar"
    with tarfile.open(first, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(per_shard):
            label = str(number % _CLASSES).encode()
            for name, data in ((f"{number:06d}.jpg", _ENCODED), (f"{number:06d}.cls", label)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    for number in range(1, shards):
        os.link(first, folder / f"shard-{number:05d}.tar")
    time.sleep(_SETTLE_SECONDS)


def _in_child(function: str, *arguments: object) -> dict[str, Any]:
    """What a function of this module prints in a process of its own."""
    # Not -m: actors must find the handlers by the module's name.
    code = f"from tests.benchmarks.control_plane import {function}; {function}()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, env=environment, cwd=REPOSITORY, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _job(folder: Path, started: float) -> dict[str, Any]:
    """One job, in this process."""
    imported, start_mib = time.time(), peak_mib()
    config = VotesConfig(
        data=str(folder / _DATA), weights="none", device="cpu", microbatch=16, threads=1
    )
    defense = Defense(
        preprocess=PRESETS["imagenet"],
        network=Network(
            name="made-up", num_classes=_CLASSES, weights="none", weights_sha256="0" * 64
        ),
        views=Ablation(kind="column", size=_SIZE, stride=1, height=_PX, width=_PX),
        tokens="drop",
    )
    options, output = source_options(config, defense), OutputConfig(out=str(folder / _OUT))
    (plan,) = plan_each([(config, defense)], output, Executor())
    planned, planned_mib = time.time(), peak_mib()
    with hold_lease(plan.store.lease_path, "bench", wait=False) as lease:
        job = _Job(
            defense=defense,
            numerics=plan.numerics,
            options=options,
            store=plan.store,
            lease=lease,
            config=config,
            executor=plan.executor,
        )
        done = finish_run(job, plan.wanted, plan.listing)
    commits = (path.stat().st_mtime for path in Path(plan.store.folder).glob("unit-*.parquet"))
    return {
        "run_id": plan.store.run_id,
        "voted": done.voted,
        "voting": done.seconds,
        "started": started,
        "imported": imported,
        "planned": planned,
        "first_commit": min(at for at in commits if at >= started),
        "start_mib": start_mib,
        "planned_mib": planned_mib,
        "peak_mib": peak_mib(),
    }


def print_job() -> None:
    """Run one job: the folder and the second it was started in are the arguments."""
    print(json.dumps(_job(Path(sys.argv[1]), float(sys.argv[2]))))


def print_memory() -> None:
    """List made-up images: the folder and the number of shards are the arguments."""
    print(json.dumps(measure_memory(Path(sys.argv[1]), int(sys.argv[2]))))


def main() -> None:
    """Measure jobs of as many images as the arguments say, or listing alone."""
    if sys.argv[1:] == ["memory"]:
        found = []
        for shards in _REMEMBERED_SHARDS:
            with tempfile.TemporaryDirectory() as folder:
                found.append(_in_child("print_memory", folder, shards))
        few, many = found
        grown = (many["grown_mib"] - few["grown_mib"]) * 2**20 / (many["images"] - few["images"])
        print(json.dumps({"listings": found, "grown_bytes_an_image": grown}, indent=2))
        return
    if sys.argv[1:] == ["listing"]:
        with two_raylets() as executor, tempfile.TemporaryDirectory() as folder:
            found = measure_listing(Path(folder), _LISTED_SHARDS, _PER_SHARD, executor)
        print(json.dumps({"listing": found, "hardware": hardware()}, indent=2))
        return
    jobs = []
    for images in map(int, sys.argv[1:] or ("1000", "10000", "100000")):
        with tempfile.TemporaryDirectory() as folder:
            jobs.append(measure_control_plane(Path(folder), images // _PER_SHARD, _PER_SHARD))
    print(json.dumps({"jobs": jobs, "hardware": hardware()}, indent=2))


if __name__ == "__main__":
    main()
