"""A votes job whose three stages run in this process, with no cluster between them."""

import contextlib

import pipeline.cluster.connect
import pipeline.voting.dataset
from pipeline.cluster.errors import WorkersDiedError


class Stages:
    """Stands for ``run_units``; ``dies_after`` units it dies, once for each number.

    Attributes:
        dies_after: After how many units each pass ends; passes beyond these end by themselves.
        died: What is raised then.
        units: Numbers of the units that went through.
        passes: How often it was called.
    """

    def __init__(self):
        self.dies_after, self.units, self.passes = [], [], 0
        self.died = WorkersDiedError("ActorDiedError: too often")

    def __call__(self, units, decode, vote, commit, share, *, stall_seconds, verbose):
        self.passes += 1
        actor, left = vote(), self.dies_after.pop(0) if self.dies_after else None
        for unit in units:
            if left == 0:
                raise self.died
            left = None if left is None else left - 1
            self.units.append(unit["unit"][0].as_py())
            yield commit(actor(decode()(unit)))


def stages_here(patch) -> Stages:
    """Let every votes job run here, as long as ``patch``, a ``MonkeyPatch``, holds."""

    @contextlib.contextmanager
    def no_cluster(*_, **__):
        yield {"CPU": 2.0}

    stages = Stages()
    patch.setattr(pipeline.cluster.connect, "ray_cluster", no_cluster)
    patch.setattr(pipeline.voting.dataset, "run_units", stages)
    return stages


def votes_command(shards, weights, out) -> list[str]:
    """Arguments of a small votes job, which takes images that cannot be decoded too."""
    places = ["--data", f"{shards}/*.tar", "--weights", str(weights), "--out", str(out)]
    return ["votes", *places, "--microbatch=16", "--threads=1", "--max-error-rate=1"]
