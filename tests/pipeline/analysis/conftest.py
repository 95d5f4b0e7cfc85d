from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from models.views.ablations import Ablation
from models.views.threats import Threat
from pipeline.analysis import open_run
from pipeline.analysis.heatmap import breaking_maps, write_maps
from pipeline.attack.config import WitnessConfig
from pipeline.attack.witness import replay_witnesses
from pipeline.config import ClaimsConfig
from pipeline.runs.store import VotesStore
from pipeline.scoring.certify import certify_votes
from tests.pipeline.analysis.stored_runs import write_attacks, write_run

SIDES = (23, 32, 39)


class Answered(NamedTuple):
    """Two runs over the same images, certified; image 5 has no label, 7 (and 9) an error.

    Of each three images that are right and uncertified at 32 px were attacked, twice, and one fell;
    and one that is certified, in vain.
    """

    out: Path
    first: str
    second: str


def wavering_votes(labels: np.ndarray, views: int, noise: float, seed: int) -> np.ndarray:
    """Most votes for the label, or for the next class, with a run of others in between."""
    rng = np.random.default_rng(seed)
    count = (len(labels), 1)
    favourite = np.where(rng.random(count) < 0.15, (labels[:, None] + 1) % 5, labels[:, None])
    others = rng.integers(0, 5, (len(labels), views))
    place = (np.arange(views) + rng.integers(0, views, count)) % views
    return np.where(place < noise * rng.random(count) * views, others, favourite)


def some_attacks(out: Path, run_id: str) -> list[tuple[str, bool, bool]]:
    """Image, whether it is certified, whether it is right after a patch."""
    images = open_run(out, run_id).table("images").to_pylist()
    right = [row for row in images if row["prediction"] == row["label"] is not None]
    uncertified = [row["image_id"] for row in right if row["largest_exact_px"] < 32][:3]
    certified = next(row["image_id"] for row in right if row["largest_exact_px"] >= 32)
    fell = [(image, False, number != 1) for number, image in enumerate(uncertified)]
    stood = [(image, False, True) for image in uncertified]
    return [*fell, *stood, (certified, True, True)]


@pytest.fixture(scope="session")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    out = tmp_path_factory.mktemp("answered") / "out"
    ablation = Ablation(kind="column", size=19, stride=10, height=224, width=224)
    truth = np.random.default_rng(0).integers(0, 5, 60)
    labels = [None if image == 5 else int(label) for image, label in enumerate(truth)]
    runs = []
    for model, noise, errors in (("tiny", 0.6, (7,)), ("small", 0.4, (7, 9))):
        votes = wavering_votes(truth, len(ablation), noise, seed=len(model))
        plain = np.where(np.arange(60) % 7, truth, (truth + 2) % 5).tolist()
        run_id = write_run(
            out,
            votes,
            labels,
            ablation=ablation,
            classes=5,
            model=model,
            plain=plain,
            errors=errors,
            unit_images=25,
        )
        certify_votes(VotesStore(str(out), run_id), ClaimsConfig(patch=SIDES, detect=True))
        write_maps(breaking_maps(open_run(out, run_id), [Threat.square(32)]))
        replay_witnesses(VotesStore(str(out), run_id), WitnessConfig(patch=32))
        write_attacks(out, run_id, some_attacks(out, run_id))
        runs.append(run_id)
    return Answered(out, *runs)
