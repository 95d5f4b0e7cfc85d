"""What a run cost, as far as its manifest recorded it."""

from dataclasses import dataclass

from pipeline.config import ConfigError
from pipeline.manifest import Manifest


@dataclass(frozen=True)
class Cost:
    """Of the voting alone: certificates need no network.

    Attributes:
        images: Images of the run.
        votes: Forward passes of ablations.
        seconds: Wall-clock time of voting, reading and decoding included, summed over resumes.
        device: What computed.
        cpu_hours: Hours of all CPUs of the machine that started the job, busy or not.
        gpu_hours: Hours of all actors' GPUs; None without GPUs or where their number is not known.
    """

    images: int
    votes: int
    seconds: float
    device: str
    cpu_hours: float | None
    gpu_hours: float | None

    @property
    def images_per_second(self) -> float:
        """Images voted on in a second."""
        return self.images / self.seconds

    @property
    def votes_per_second(self) -> float:
        """Votes cast in a second."""
        return self.votes / self.seconds


def cost_of(manifest: Manifest, votes_cast: int | None = None) -> Cost:
    """The cost that a manifest records.

    Args:
        manifest: Of the run.
        votes_cast: Where not every ablation of every image voted: how many did.

    Raises:
        ConfigError: It records no time.
    """
    facts, numerics = manifest.execution, manifest.identity.get("numerics", {})
    seconds, images = facts.get("voting_seconds"), facts.get("images")
    if not seconds or not images:
        raise ConfigError(f"run {manifest.run_id} recorded no time of voting")
    device = str(numerics.get("device", "unknown"))
    cpus, actors = facts.get("cpus"), facts.get("actors")
    on_gpu = device.startswith("cuda")
    return Cost(
        images=images,
        votes=votes_cast or images * manifest.votes_per_image,
        seconds=seconds,
        device=", ".join(
            str(part)
            for part in (numerics.get("device_model", device), numerics.get("dtype"))
            if part
        ),
        cpu_hours=cpus * seconds / 3600 if cpus and not on_gpu else None,
        gpu_hours=actors * seconds / 3600 if actors and on_gpu else None,
    )
