"""Kill something of a votes job at a random moment, resume, and compare with an undisturbed run.

``python -m tests.faults.chaos 50`` does so for seeds 0 to 49 (``make chaos N=50``); a second number
is the first seed. Each seed's victim and moment follow from the seed, but the moment is a number of
committed units, not a time.
"""

import contextlib
import hashlib
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runs.schema import VOTES
from tests.conftest import REPOSITORY, TINY_CLASSES, png, random_images, write_shard

SABOTAGE = Path(__file__).parent / "sabotage"
VICTIMS = ("actor", "task", "raylet", "driver", "everything")
IMAGES, UNIT_IMAGES = 96, 4
UNITS = IMAGES // UNIT_IMAGES
_STALL_SECONDS = 240


@dataclass(frozen=True)
class Kill:
    """What one seed did.

    Attributes:
        seed: The seed.
        victim: What was killed.
        landed: Units that were committed at that moment, of UNITS.
        survived: Whether the job went on to its end by itself.
        recomputed: Images that were voted on more than once.
        rows: Rows in the end.
        images: Different ids among them.
        equal: Whether they are, byte for byte, those of the undisturbed run.
    """

    seed: int
    victim: str
    landed: int
    survived: bool
    recomputed: int
    rows: int
    images: int
    equal: bool

    @property
    def mid_run(self) -> bool:
        """Whether some but not all units were committed."""
        return 0 < self.landed < UNITS

    @property
    def exactly_once(self) -> bool:
        """Whether no image was lost, none doubled, and no vote changed."""
        return self.equal and self.rows == self.images == IMAGES

    def __str__(self) -> str:
        verdict = "equal" if self.exactly_once else "DIFFERENT"
        fate = "went on" if self.survived else "resumed"
        return (
            f"seed {self.seed:3}: killed {self.victim:10} at {self.landed:2} of {UNITS} units, "
            f"{fate}, {self.recomputed:2} rows recomputed, {self.rows} rows of {self.images} "
            f"images: {verdict}"
        )


class Chaos:
    """A cluster of three raylets on this machine, and one small job to disturb on it.

    Args:
        folder: Where data and outputs go.
        weights: The tiny network.
    """

    def __init__(self, folder: Path, weights: Path) -> None:
        self.folder, self.weights = folder, weights
        self.data = folder / "data"
        self.data.mkdir()
        pixels = random_images(IMAGES, seed=1)
        for shard in range(2):
            samples: dict[str, bytes] = {}
            for index in range(shard * IMAGES // 2, (shard + 1) * IMAGES // 2):
                samples[f"{index:03d}.png"] = png(pixels[index])
                samples[f"{index:03d}.cls"] = str(index % TINY_CLASSES).encode()
            write_shard(self.data / f"s-{shard}.tar", samples)
        os.environ |= {
            # Workers inherit it from their raylet.
            "PYTHONPATH": os.pathsep.join([str(SABOTAGE), str(REPOSITORY)]),
            "SABOTAGE_SECONDS": "0.2",
            "SABOTAGE_LOG": str(folder / "voted"),
            # A job refuses clusters that anyone may use.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
        }
        self._start()
        self._complete(folder / "undisturbed")
        self.expected = votes_digest(folder / "undisturbed")[0]

    def _start(self) -> None:
        from ray.cluster_utils import Cluster  # reads the token as it is imported

        node = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
        self.cluster = Cluster(
            initialize_head=True, head_node_args={**node, "include_dashboard": False}
        )
        self.others = [self.cluster.add_node(**node) for _ in range(2)]

    def close(self) -> None:
        """End the cluster."""
        self.cluster.shutdown()

    def _job(self, out: Path) -> subprocess.Popen[bytes]:
        fixed = ["--unit-images", str(UNIT_IMAGES), "--microbatch", "16", "--threads", "1"]
        command = [sys.executable, "-m", "jobs", "votes", "--actors", "2", *fixed]
        command += ["--data", str(self.data), "--weights", str(self.weights), "--out", str(out)]
        out.mkdir(exist_ok=True)
        with (out / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={**os.environ, "RAY_ADDRESS": self.cluster.address},
                stdout=log,
                stderr=log,
            )

    def _finish(self, job: subprocess.Popen[bytes]) -> int:
        try:
            return job.wait(_STALL_SECONDS)
        except subprocess.TimeoutExpired:
            job.kill()
            return job.wait()

    def _complete(self, out: Path) -> None:
        assert self._finish(self._job(out)) == 0, (out / "log").read_text()

    def kill(self, seed: int) -> Kill:
        """Disturb a new run, then resume it until it is finished."""
        chance = random.Random(seed)
        victim, moment = chance.choice(VICTIMS), chance.randint(1, UNITS - 4)
        delay = chance.uniform(0, 0.3)
        out = self.folder / f"seed-{seed}"
        voted = self.folder / "voted"
        voted.unlink(missing_ok=True)
        job = self._job(out)
        while job.poll() is None and committed(out) < moment:
            time.sleep(0.02)
        time.sleep(delay)
        self._strike(victim, job)
        landed = committed(out)
        survived = self._finish(job) == 0
        self._mend(victim)
        if not survived:  # else all is there, and starting a job would take as long as a small one
            self._complete(out)
        digest, rows, images = votes_digest(out)
        begun = sum(int(line.split()[1]) for line in voted.read_text().splitlines())
        return Kill(
            seed=seed,
            victim=victim,
            landed=landed,
            survived=survived,
            recomputed=begun - IMAGES,
            rows=rows,
            images=images,
            equal=digest == self.expected,
        )

    def _strike(self, victim: str, job: subprocess.Popen[bytes]) -> None:
        raylets = [raylet_of(node) for node in [self.cluster.head_node, *self.others]]
        workers = [pid for raylet in raylets for pid in children(raylet)]
        titles = {pid: title(pid) for pid in workers}
        victims = {
            "actor": [pid for pid in workers if titles[pid].startswith("ray::MapWorker")],
            # Decoding and committing take milliseconds; one that waits for more will do.
            "task": sorted(
                (pid for pid in workers if titles[pid].startswith(("ray::Map", "ray::IDLE"))),
                key=lambda pid: titles[pid].startswith(("ray::MapWorker", "ray::IDLE")),
            ),
            # The driver's own raylet takes the driver along: that is "everything".
            "raylet": raylets[1:2],
            "driver": [job.pid],
            "everything": [job.pid, *raylets, *workers],
        }[victim]
        for pid in victims if victim == "everything" else victims[:1]:
            kill(pid)

    def _mend(self, victim: str) -> None:
        if victim == "everything":
            self.cluster.shutdown()
            self._start()
        elif victim == "raylet":
            self.cluster.remove_node(self.others.pop(0), allow_graceful=False)
            self.others.append(self.cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20))


def kill(pid: int) -> None:
    """SIGKILL, unless it has ended by itself."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def raylet_of(node: object) -> int:
    """Process id of a node's raylet."""
    return node.all_processes["raylet"][0].process.pid


def children(pid: int, recursive: bool = False) -> list[int]:
    """Children of a process, and theirs if ``recursive``; none of one that has ended."""
    try:
        found = psutil.Process(pid).children(recursive)
    except psutil.NoSuchProcess:
        return []
    return [child.pid for child in found]


def title(pid: int) -> str:
    """What a process calls itself."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def committed(out: Path) -> int:
    """Units of the only run under ``out`` that readers see."""
    return len(list(out.glob("votes/run_id=*/unit-*.parquet")))


def votes_digest(out: Path) -> tuple[str, int, int]:
    """Digest of all rows sorted by image, the number of rows, and that of different images."""
    (folder,) = (out / "votes").glob("run_id=*")
    left = {path.name for path in folder.iterdir()} - {"_manifest.json"}
    assert left == {f"unit-{unit:05d}.parquet" for unit in range(UNITS)}, left
    assert not list((out / "leases").iterdir())
    table = pq.read_table(folder, schema=VOTES).sort_by("image_id").combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    digest = hashlib.sha256(sink.getvalue()).hexdigest()
    return digest, table.num_rows, len(table["image_id"].unique())


def kills(chaos: Chaos, seeds: range) -> Iterator[Kill]:
    """One kill a seed, printed as they happen."""
    for seed in seeds:
        done = chaos.kill(seed)
        print(done, flush=True)
        shutil.rmtree(chaos.folder / f"seed-{seed}")
        yield done


def main() -> int:
    """Kill as often as asked; 1 if a run came out different."""
    from tests.conftest import write_tiny_weights

    count, first = (*map(int, sys.argv[1:]), 0)[:2] if len(sys.argv) > 1 else (10, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chaos = Chaos(folder, write_tiny_weights(folder / "tiny.safetensors"))
        try:
            done = list(kills(chaos, range(first, first + count)))
        finally:
            chaos.close()
    right = sum(kill.exactly_once for kill in done)
    mid_run = sum(kill.mid_run for kill in done)
    recomputed = sum(kill.recomputed for kill in done)
    print(f"{len(done)} kills: {right} equal, {mid_run} mid-run, {recomputed} rows recomputed")
    return 0 if right == len(done) else 1


if __name__ == "__main__":
    sys.exit(main())
