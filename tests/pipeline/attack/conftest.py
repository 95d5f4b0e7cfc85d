"""One finished run of the tiny network, whose labels are its own predictions but for a few."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.classifiers.smoothed import SmoothedClassifier
from pipeline.attack import flow
from pipeline.attack.config import AttackConfig
from pipeline.runs.store import VotesStore
from tests.conftest import png, random_images, tiny_ablation, tiny_model, write_shard
from tests.pipeline.attack.small_runs import finished_run, vote_here

IMAGES = random_images(24, seed=3)
WRONG, UNLABELLED = (0, 5, 9), 7


@pytest.fixture(scope="session")
def labelled(tmp_path_factory, network) -> str:
    """A shard of 24 images: three have a wrong label, one has none."""
    model = tiny_model(network, tiny_ablation())
    votes = SmoothedClassifier(model, torch.device("cpu"), 16)(IMAGES).votes_bv
    samples: dict[str, bytes] = {}
    for index, image in enumerate(IMAGES):
        label = int(np.bincount(votes[index]).argmax())
        samples[f"{index:03d}.png"] = png(image)
        if index != UNLABELLED:
            samples[f"{index:03d}.cls"] = str((label + (index in WRONG)) % 7).encode()
    return str(write_shard(tmp_path_factory.mktemp("labelled") / "s.tar", samples))


@pytest.fixture(scope="session")
def weak(labelled, tiny_weights, tmp_path_factory) -> VotesStore:
    """A finished run of a network that knows nothing, so that few pixels move it."""
    return finished_run(tmp_path_factory.mktemp("weak"), labelled, tiny_weights)


@pytest.fixture
def here(monkeypatch) -> None:
    """Replays in this process, without Ray."""
    monkeypatch.setattr(flow, "vote_again", vote_here)


@pytest.fixture
def copied(weak, tmp_path) -> VotesStore:
    """The run alone in a folder of its own, to write beside."""
    folder = tmp_path / "out" / "votes" / f"run_id={weak.run_id}"
    folder.mkdir(parents=True)
    for file in Path(weak.folder).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return VotesStore(str(tmp_path / "out"), weak.run_id)


def quick(**changes) -> AttackConfig:
    """A small attack."""
    given = {"patch": 8, "images": 8, "steps": 6, "locations": 2, "restarts": 1}
    return AttackConfig(**(given | changes))
