"""Training with Ray: the same weights as without, from a shared test session."""

import queue

import pyarrow as pa
import pytest
import torch
from ray.exceptions import RayTaskError
from ray.train import WorkerGroupError
from safetensors.torch import load_file

from pipeline.config import ConfigError
from pipeline.sources.base import SourceError
from pipeline.training import order
from pipeline.training.checkpoint import write_checkpoint
from pipeline.training.cluster import _fit, _reason, plan_workers, train_on_cluster
from pipeline.training.config import TrainingPlace
from pipeline.training.feed import MemoryFeed
from pipeline.training.learner import DivergedError
from pipeline.training.local import train_locally
from pipeline.training.loop import Training
from pipeline.training.stream import PreparePiece
from tests.pipeline.training.test_loop import BrokenFeed, PowerCutError, Told, same
from tests.pipeline.training.toy import toy_place, toy_recipe


def test_pieces_are_the_batches_of_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(order, "_PIECE_IMAGES", 24)
    recipe = toy_recipe(tmp_path, epochs=3)
    assert recipe.order.pieces == 2
    tables = list(PreparePiece(recipe, first_epoch=1)(pa.table({"id": [0, 1, 2, 3]})))
    streamed = pa.concat_tables(tables)
    held = [batch for epoch in (1, 2) for batch in MemoryFeed(recipe).batches(epoch, 0)]
    assert streamed["label"].to_pylist() == torch.cat([labels for _, labels in held]).tolist()
    pixels = torch.cat([images for images, _ in held]).numpy()
    assert b"".join(streamed["pixels"].to_pylist()) == pixels.tobytes()


@pytest.mark.usefixtures("ray_session")
@pytest.mark.services
def test_one_worker_of_ray_trains_bit_for_bit_as_plain_torch(tmp_path):
    """Cut off after an epoch without Ray and resumed with it: the bits are the same."""
    recipe, told = toy_recipe(tmp_path, epochs=2), (Told(), Told())
    plain = load_file(train_locally(recipe, toy_place(tmp_path / "1"), told[0]))
    place = toy_place(tmp_path / "2")
    feed = BrokenFeed(recipe)
    feed.left = recipe.order.steps + 1
    with pytest.raises(PowerCutError):
        Training(recipe, place, torch.device("cpu"), Told()).run(feed)
    streamed = load_file(train_on_cluster(recipe, place, told[1]))
    assert same(streamed, plain)
    assert told[1].lines[0] == "train: resumed after step 3 of 6"
    assert told[1].epochs == told[0].epochs[1:]


@pytest.mark.usefixtures("ray_session")
@pytest.mark.services
def test_a_training_that_diverges_is_not_repeated(tmp_path):
    recipe = toy_recipe(tmp_path, epochs=2, lr=1e30, warmup=4, schedule="constant", average=0.0)
    with pytest.raises(DivergedError, match="diverged at epoch 1, step"):
        train_on_cluster(recipe, toy_place(tmp_path), Told())


def test_the_driver_raises_what_the_workers_returned():
    reports = queue.Queue()

    class Trainer:
        def fit(self):
            reports.put(("diverged", ("training diverged at epoch 1",)))
            reports.put(("say", ("the end",)))

    told = Told()
    with pytest.raises(DivergedError, match="training diverged at epoch 1"):
        _fit(Trainer(), reports, told)
    assert told.lines == ["the end"]


def test_a_failure_is_told_without_rays_words():
    cause = SourceError("training image toy/007: damaged\nFailed to apply UDF transform after ...")
    told = RayTaskError("decode", "a traceback", cause)
    assert _reason(WorkerGroupError("rank 1", {1: told})) == (
        "SourceError: training image toy/007: damaged"
    )
    assert _reason(WorkerGroupError("rank 0", {0: ValueError()})) == "ValueError"


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (2, 1), (2, 2), (16, 8)])
def test_workers_leave_cpus_to_decode(cpus, workers):
    scaling = plan_workers({"CPU": cpus}, TrainingPlace(workers=workers))
    assert scaling.num_workers * scaling.resources_per_worker["CPU"] <= cpus - 0.5
    assert not scaling.use_gpu


def test_gpus_make_workers():
    scaling = plan_workers({"CPU": 32, "GPU": 4}, TrainingPlace())
    assert (scaling.num_workers, scaling.use_gpu) == (4, True)
    with pytest.raises(ConfigError, match="--workers 5: the cluster has 4 GPUs"):
        plan_workers({"CPU": 32, "GPU": 4}, TrainingPlace(workers=5))
    assert plan_workers({"CPU": 4}, TrainingPlace(device="cuda", workers=8)).num_workers == 8


def test_workers_find_their_cpus_beside_the_gpus_and_leave_a_node_some():
    found = {"CPU": 68.0, "CPU:a": 4.0, "CPU:b": 64.0}
    found |= {"GPU": 8.0, "GPU:A": 8.0, "GPU@a:A": 8.0}
    assert plan_workers(found, TrainingPlace()).resources_per_worker == {"CPU": 0.5}
    found = {"CPU": 16.0, "CPU:a": 8.0, "CPU:b": 8.0}
    found |= {"GPU": 16.0, "GPU:A": 16.0, "GPU@a:A": 8.0, "GPU@b:A": 8.0}
    each = plan_workers(found, TrainingPlace()).resources_per_worker["CPU"]
    assert 8 * each <= 7.5


def test_a_checkpoint_within_an_epoch_is_not_for_ray(tmp_path):
    recipe, place = toy_recipe(tmp_path), toy_place(tmp_path, no_ray=False)
    write_checkpoint(place.out, recipe, {"learner": {"done": 1}})
    with pytest.raises(ConfigError, match=r"lies within an epoch.*add --no-ray"):
        train_on_cluster(recipe, place, None)


def test_too_many_workers_for_the_cpus_are_refused():
    with pytest.raises(ConfigError, match="none is left to decode"):
        plan_workers({"CPU": 0.5}, TrainingPlace(workers=1))
