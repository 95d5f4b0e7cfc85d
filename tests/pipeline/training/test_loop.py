"""Whole trainings by plain torch: they learn, they resume, they say what they cannot do."""

import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.networks.weights import read_card
from pipeline.config import ConfigError, VotesConfig
from pipeline.runs.numerics import probe_machine, resolve_numerics
from pipeline.runs.resolve import resolve_defense
from pipeline.sources.base import SourceError
from pipeline.training.checkpoint import write_weights
from pipeline.training.estimate import HeldOut, estimate
from pipeline.training.feed import MemoryFeed
from pipeline.training.learner import DivergedError
from pipeline.training.local import train_locally
from pipeline.training.loop import Training
from pipeline.voting.vote import build_classifier
from tests.conftest import png, write_shard
from tests.pipeline.training.toy import (
    CPU,
    colours,
    toy_config,
    toy_place,
    toy_recipe,
    write_images,
    write_init,
)


class Told:
    """Remembers what was said."""

    def __init__(self):
        self.lines, self.epochs = [], []

    def say(self, line):
        self.lines.append(line)

    def epoch(self, epoch, figures):
        self.epochs.append((epoch, figures))


class PowerCutError(Exception):
    pass


class BrokenFeed(MemoryFeed):
    """A power cut after so many batches."""

    left = 0

    def batches(self, epoch, first):
        for batch in super().batches(epoch, first):
            if self.left == 0:
                raise PowerCutError
            self.left -= 1
            yield batch


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def written(recipe):
    """The weights of the undisturbed training."""
    return Path(recipe.config.data).with_name("out") / "weights.safetensors"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    told = Told()
    recipe = toy_recipe(folder, epochs=4, views_per_image=2)
    return recipe, load_file(train_locally(recipe, toy_place(folder), told)), told


def test_it_learns(undisturbed):
    _, _, told = undisturbed
    assert [epoch for epoch, _ in told.epochs] == [1, 2, 3, 4]
    first, last = told.epochs[0][1], told.epochs[-1][1]
    assert last["train/loss"] < first["train/loss"] - 0.2
    assert last["train/ablation_accuracy"] > 0.8 > first["train/ablation_accuracy"]
    assert last["validation/smoothed_accuracy"] > 0.9


@pytest.mark.parametrize("steps", [6, 7])
def test_resumed_is_undisturbed_bit_for_bit(undisturbed, tmp_path, steps):
    """Cut off at the end of an epoch, and, with checkpoints in between, within one."""
    recipe, weights, told = undisturbed
    place = toy_place(tmp_path, checkpoint_minutes=1e-9 if steps % 3 else 0.0)
    feed = BrokenFeed(recipe)
    feed.left = steps
    with pytest.raises(PowerCutError):
        Training(recipe, place, CPU, Told()).run(feed)
    # What was learned so far can be used already.
    assert len(read_card(str(tmp_path / "out/weights.safetensors")).recipe["history"]) == 2
    again = Told()
    path = train_locally(recipe, place, again)
    assert again.lines[0] == f"train: resumed after step {steps} of {recipe.order.steps * 4}"
    assert same(load_file(path), weights)
    assert again.epochs == told.epochs[2:]


def test_a_finished_training_only_writes_its_weights_again(undisturbed, tmp_path):
    recipe, weights, _ = undisturbed
    shutil.copy(written(recipe).with_name("checkpoint.pt"), tmp_path)
    told = Told()
    place = toy_place(tmp_path, out=str(tmp_path))
    assert same(load_file(train_locally(recipe, place, told)), weights)
    assert told.epochs == []


def test_two_workers_learn_the_same(tmp_path):
    """But for the order of sums, which Adam magnifies where a gradient is next to nothing."""
    recipe, told = toy_recipe(tmp_path, epochs=1, optimizer="sgd"), (Told(), Told())
    alone = load_file(train_locally(recipe, toy_place(tmp_path / "1"), told[0]))
    shared = load_file(train_locally(recipe, toy_place(tmp_path / "2", workers=2), told[1]))
    for key, value in alone.items():
        torch.testing.assert_close(shared[key], value, rtol=1e-4, atol=1e-6)
    assert told[1].epochs[0][1] == pytest.approx(told[0].epochs[0][1], rel=1e-5)


def test_a_failure_of_the_first_worker_is_its_own_and_ends_the_others(tmp_path):
    class Full(Told):
        def epoch(self, epoch, figures):
            raise RuntimeError("no room for the curves")

    with pytest.raises(RuntimeError, match="no room for the curves"):
        train_locally(toy_recipe(tmp_path), toy_place(tmp_path, workers=2), Full())
    for process in multiprocessing.active_children():
        process.join(20)
    assert not multiprocessing.active_children()


def test_fewer_held_out_images_than_workers_are_refused_at_once(tmp_path):
    recipe, place = toy_recipe(tmp_path, estimate=1), toy_place(tmp_path, workers=2)
    with pytest.raises(ConfigError, match="each of the 2 workers"):
        train_locally(recipe, place, Told())


def test_a_checkpoint_of_another_training_is_refused_naming_the_field(tmp_path):
    place = toy_place(tmp_path)
    train_locally(toy_recipe(tmp_path, epochs=1), place, Told())
    with pytest.raises(ConfigError, match=r"epochs \(1, now 2\).*--overwrite"):
        train_locally(toy_recipe(tmp_path, epochs=2), place, Told())
    write_images(tmp_path / "toy.tar", 42, seed=9)
    with pytest.raises(ConfigError, match=r"data.fingerprint"):
        train_locally(toy_recipe(tmp_path, epochs=1), place, Told())


def test_the_written_weights_vote_as_the_estimate_says(undisturbed):
    """Loaded from the file alone, as `patchcert run` does."""
    recipe, _, told = undisturbed
    path = str(written(recipe))
    request = VotesConfig(data=recipe.config.data, weights=path, device="cpu", threads=1)
    defense = resolve_defense(request)
    assert (defense.network.name, defense.tokens, defense.views) == (
        recipe.defense.network.name,
        recipe.defense.tokens,
        recipe.defense.views,
    )
    held_out = HeldOut.of(recipe, 0, 1)
    smoothed = build_classifier(defense, resolve_numerics(request, probe_machine("cpu")))
    ballot = smoothed(held_out.images)
    figures = told.epochs[-1][1]
    accuracy = float(np.mean(ballot.votes_bv == held_out.labels[:, None]))
    assert accuracy == figures["validation/ablation_accuracy"]
    assert figures == {
        **{k: v for k, v in figures.items() if k.startswith("train/")},
        **{
            f"validation/{k}": v
            for k, v in estimate(smoothed.classifier.network, held_out, defense, CPU).items()
        },
    }


def test_the_written_card_says_how_the_weights_were_made(undisturbed):
    recipe, _, told = undisturbed
    card = read_card(str(written(recipe)))
    made = card.recipe
    assert made["init"] == {
        "file": "init.safetensors",
        "sha256": recipe.defense.network.weights_sha256,
        "recipe": {"made by": "tests"},
    }
    assert made["data"] == {"fingerprint": recipe.listing.fingerprint, "images": 42}
    assert made["views"] == 2
    assert [entry["epoch"] for entry in made["history"]] == [1, 2, 3, 4]
    assert made["history"][-1]["train/loss"] == told.epochs[-1][1]["train/loss"]
    assert "torch" in made["made_by"]


def test_half_precision_is_written_on_request(tmp_path):
    recipe = toy_recipe(tmp_path, epochs=1, save_as="float16")
    state = load_file(train_locally(recipe, toy_place(tmp_path), Told()))
    assert {value.dtype for value in state.values()} == {torch.float16}


def test_the_best_epoch_can_be_selected(tmp_path):
    """A learning rate that ruins the network: its first epoch is the best."""
    recipe = toy_recipe(tmp_path, epochs=3, select="best", average=0.0, lr=3.0, clip=100.0)
    place = toy_place(tmp_path)
    training = Training(recipe, place, CPU, Told())
    held = {
        epoch: {"validation/certified_accuracy/exact/2px": c, "validation/ablation_accuracy": a}
        for epoch, (c, a) in enumerate([(0.5, 0.4), (0.7, 0.3), (0.7, 0.2)], 1)
    }
    seen = {}

    def measured():
        epoch = len(training.history) + 1
        seen[epoch] = {k: v.clone() for k, v in training.learner.result.state_dict().items()}
        return held[epoch]

    training._measured = measured
    path = training.run(MemoryFeed(recipe))
    assert same(load_file(path), seen[2])
    assert not same(seen[2], seen[3])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_training_that_diverges_stops_and_keeps_what_it_wrote(tmp_path, workers):
    recipe = toy_recipe(tmp_path, epochs=2, lr=1e30, warmup=4, schedule="constant", average=0.0)
    with pytest.raises(DivergedError, match=r"diverged at epoch 1, step \d of 3, .*another --out"):
        train_locally(recipe, toy_place(tmp_path, workers=workers), Told())
    assert not (tmp_path / "out").exists()


def test_no_weight_becomes_infinite_where_it_is_written(tmp_path):
    recipe = toy_recipe(tmp_path, save_as="float16")
    large = {"a": torch.tensor([1e5]), "b": torch.tensor([0.5])}
    written = load_file(write_weights(str(tmp_path), recipe, large, []))
    assert written["a"].item() == 1e5
    assert written["b"].dtype == torch.float16


def test_images_without_labels_are_refused(tmp_path):
    write_images(tmp_path / "toy.tar", 12, labelled=False)
    with pytest.raises(ConfigError, match="12 of 12 images have no label, such as toy/000"):
        toy_recipe(tmp_path)


def test_a_class_outside_is_refused(tmp_path):
    with pytest.raises(SourceError, match="2"):
        toy_recipe(tmp_path, num_classes=2)


def test_too_many_held_out_or_in_a_batch_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--validation 42: class 0 would keep none"):
        toy_recipe(tmp_path, validation=42)
    with pytest.raises(ConfigError, match="--batch 64: 36 training images do not fill one"):
        toy_recipe(tmp_path, batch=64)
    with pytest.raises(ConfigError, match="--batch 12: it must be a multiple"):
        train_locally(toy_recipe(tmp_path), toy_place(tmp_path, workers=5), Told())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"epochs": 0}, "--epochs 0: it must be at least 1"),
        ({"label_smoothing": 1.0}, "--label-smoothing 1.0: it must be below 1"),
        ({"lr": 0.0}, "--lr 0.0: it must be above 0"),
        ({"layer_decay": 1.5}, "--layer-decay 1.5: it must be at most 1"),
        ({"teacher": "self", "average": 0.0}, "--teacher self"),
        ({"select": "best", "validation": 0}, "--select best"),
        ({"hardest_of": 2, "views_per_image": 2}, "--hardest-of 2: .*than --views-per-image 2"),
        ({"hardest_of": 4, "views_per_image": 2, "margin": 0.1}, "--margin: .*leave --hardest-of"),
    ],
)
def test_nonsense_is_refused(tmp_path, option, message):
    with pytest.raises(ConfigError, match=message):
        toy_config(tmp_path, **option)


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    samples = {}
    for index, image in enumerate(colours(24)):
        samples[f"{index:03d}.png"] = png(image) if index != 7 else b"no picture"
        samples[f"{index:03d}.cls"] = str(index % 3).encode()
    write_shard(tmp_path / "toy.tar", samples)
    write_init(tmp_path / "init.safetensors")
    recipe = toy_recipe(tmp_path, validation=0, epochs=1)
    with pytest.raises(SourceError, match="training image toy/007: not a JPEG"):
        train_locally(recipe, toy_place(tmp_path), Told())
    recipe = replace(recipe, held_out=np.array([6, 7]), config=toy_config(tmp_path, estimate=2))
    with pytest.raises(SourceError, match="held-out image toy/007: not a JPEG"):
        HeldOut.of(recipe, 0, 1)
