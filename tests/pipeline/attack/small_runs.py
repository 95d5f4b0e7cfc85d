"""Finished runs of tiny networks, and replays of them, in this process: the stages without Ray."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file

from models.networks.weights import WeightsCard
from models.preprocess import Preprocess
from pipeline.attack.rerun import Rerun
from pipeline.config import VotesConfig
from pipeline.runs.manifest import new_manifest
from pipeline.runs.numerics import probe_machine, resolve_numerics
from pipeline.runs.resolve import resolve_defense
from pipeline.runs.schema import votes_schema
from pipeline.runs.store import VotesStore
from pipeline.sources.base import SourceOptions
from pipeline.sources.listing import list_images
from pipeline.voting.commit import CommitUnit
from pipeline.voting.decode import DecodeUnit
from pipeline.voting.job import open_run, plan_units
from pipeline.voting.vote import VoteOnUnit
from tests.conftest import (
    TINY,
    TINY_CLASSES,
    lively_network,
    png,
    write_shard,
    write_tiny_weights,
)

# Of ten views a patch touches two: some images are certified, most are not.
SIZE, STRIDE, PATCH = 24, 16, 8


def write_half_sure(folder: Path, pictures: Iterable[np.ndarray], lead: float) -> tuple[str, Path]:
    """Write a shard of pictures, all of class 3, and a network that leans to it by ``lead``.

    So it agrees about some of them under all masks.
    """
    samples: dict[str, bytes] = {}
    for number, pixels in enumerate(pictures):
        samples |= {f"{number:03d}.png": png(pixels), f"{number:03d}.cls": b"3"}
    network = lively_network()
    with torch.no_grad():
        network.head.bias[3] += lead
    shard = write_shard(folder / "s.tar", samples)
    return str(shard), write_tiny_weights(folder / "w.safetensors", network)


def finished_run(out: Path, data: str, weights: Path, **changes) -> VotesStore:
    """A run as the votes job leaves it."""
    given = {"microbatch": 16, "threads": 1, "unit_images": 8, "size": SIZE, "stride": STRIDE}
    config = VotesConfig(data=data, weights=str(weights), **(given | changes))
    defense = resolve_defense(config)
    numerics = resolve_numerics(config, probe_machine("cpu"))
    options = SourceOptions(classes=defense.network.classes)
    listing = list_images(data, options, defense.network.num_classes)
    wanted = new_manifest(config, defense, numerics, listing)
    store = VotesStore(str(out), wanted.run_id)
    manifest = open_run(store, wanted, overwrite=False)
    units = plan_units(listing.table, 8)
    decode = DecodeUnit(options, defense.model_input)
    vote = VoteOnUnit(defense, numerics, manifest.schema)
    rows = [unit.num_rows for unit in units]
    commit = CommitUnit(store, rows, manifest.schema, manifest.defense.votes_per_image)
    for unit in units:
        commit(vote(decode(unit)))
    return store


def vote_here(data: str, out: str, rerun: Rerun, executor: object) -> pa.Table:
    """``pipeline.attack.rerun.vote_again`` by the same stages, without a cluster."""
    defense = rerun.defense
    options = SourceOptions(image_column="image")
    (unit,) = plan_units(list_images(data, options, None).table, 10_000)
    schema = votes_schema(vote_sets=defense.voting.theta is not None, gaps=defense.voting.gaps)
    decoded = DecodeUnit(options, defense.model_input)(unit)
    return VoteOnUnit(defense, rerun.numerics, schema)(decoded)


def weights_with(path: Path, source: Path, preprocess: Preprocess) -> Path:
    """The tiny network's weights with another preprocessing on their card."""
    card = WeightsCard(model=TINY, num_classes=TINY_CLASSES, preprocess=preprocess, tokens="drop")
    save_file(load_file(source), path, metadata=card.to_metadata())
    return path


def stored_votes(store: VotesStore) -> np.ndarray:
    """All votes of a run, images with an error left out."""
    return np.array([v for t in store.read() for v in t["votes"].to_pylist() if v is not None])
