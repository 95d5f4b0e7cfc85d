"""The speed of the whole pipeline beside that of the bare engine, and of decoding alone.

On synthetic photographs: the cost of decoding depends on their size and detail alone.
"""

import io
import math
import os
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
from PIL import Image
from safetensors.torch import save_file

from models.preprocess import PRESETS
from pipeline.bench.clock import seconds_of
from pipeline.cluster.executor import IN_PROCESS, LOCAL
from pipeline.config import Device, OutputConfig, VotesConfig
from pipeline.runs.numerics import probe_machine, resolve_numerics
from pipeline.runs.resolve import resolve_defense
from pipeline.sources.decode import decode, prepared
from pipeline.voting.plan import count_votes
from pipeline.voting.vote import build_classifier

PHOTO = (500, 375)
"""Width and height of a usual ImageNet photograph, in pixels."""

LARGE = (2000, 1500)
"""Width and height of a large one."""


def pipeline_over_engine(
    model: str, size: int, stride: int, *, device: Device, images: int, unit_images: int = 32
) -> dict[str, Any]:
    """Images a second of a votes job in its steady state, of the bare engine, and their ratio.

    The job reads synthetic photographs from tar shards, votes with random weights and commits
    Parquet, on a local Ray and again without Ray. Its pace is taken between the first and the last
    committed unit, so that starting is left out; the engine votes on the same pixels, before and
    after each.
    """
    with tempfile.TemporaryDirectory(prefix="patchcert-bench-") as folder:
        config = VotesConfig(
            data=_shards(Path(folder), images),
            weights=_random_weights(Path(folder), model),
            model=model,
            size=size,
            stride=stride,
            preprocess="imagenet",
            device=device,
            unit_images=unit_images,
            actors=1,
        )
        defense = resolve_defense(config)
        numerics = resolve_numerics(config, probe_machine(config.device), defense)
        classifier = build_classifier(defense, numerics)
        pixels = np.stack(
            [defense.model_input(decode(photo(*PHOTO, seed))) for seed in range(unit_images)]
        )

        def bare() -> float:
            return unit_images / seconds_of(lambda: classifier(pixels), classifier.device)

        bare()
        engine, jobs = [bare()], {}
        for name, executor in (("pipeline", LOCAL), ("no_ray", IN_PROCESS)):
            out = Path(folder) / name
            count_votes(config, defense, OutputConfig(out=str(out)), executor)
            jobs[name] = _steady_pace(out, images, unit_images)
            engine.append(bare())
    return {
        "images": images,
        "engine_images_a_second": max(engine),
        **{f"{name}_images_a_second": pace for name, pace in jobs.items()},
        **{f"{name}_over_engine": pace / max(engine) for name, pace in jobs.items()},
    }


def decode_rates(images: int = 24) -> dict[str, float]:
    """Images a second that one core decodes and preprocesses, by size in pixels and way."""
    rates = {}
    whole = PRESETS["imagenet"]
    for width, height in (PHOTO, LARGE):
        encoded = [photo(width, height, seed) for seed in range(min(images, 4))]
        for way, look in (("", whole), (" scaled", replace(whole, scaled_decode=True))):
            start = time.perf_counter()
            for index in range(images):
                prepared(encoded[index % len(encoded)], look)
            rates[f"{width}x{height}{way}"] = images / (time.perf_counter() - start)
    return rates


def photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG with the detail and size of a photograph: smooth shapes and fine noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + rng.integers(-12, 13, smooth.shape)
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _shards(folder: Path, images: int, per_shard: int = 64) -> str:
    for shard in range(math.ceil(images / per_shard)):
        with tarfile.open(folder / f"shard-{shard:03d}.tar", "w") as tar:
            for number in range(shard * per_shard, min(images, (shard + 1) * per_shard)):
                data = photo(*PHOTO, number)
                for name, content in ((f"{number:06d}.jpg", data), (f"{number:06d}.cls", b"0")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return str(folder / "*.tar")


def _random_weights(folder: Path, model: str) -> str:
    path = folder / "random.safetensors"
    state = timm.create_model(model).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return str(path)


def _steady_pace(out: Path, images: int, unit_images: int) -> float:
    """Images a second between the first and the last unit file."""
    times = sorted(os.stat(path).st_mtime for path in out.glob("votes/*/unit-*.parquet"))
    return (images - unit_images) / (times[-1] - times[0])
