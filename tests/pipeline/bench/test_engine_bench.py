"""What the bench compares does what its name says, and operations are counted, not guessed."""

import json

import numpy as np
import pytest
import timm
import torch

from models.classifiers.build import base_classifier
from models.classifiers.smoothed import SmoothedClassifier
from models.preprocess import PRESETS
from models.views.ablations import Ablation
from pipeline.bench.clock import side_by_side
from pipeline.bench.end_to_end import decode_rates, photo
from pipeline.bench.engine import (
    BLACK,
    PUBLISHED,
    EngineSettings,
    PublishedDrop,
    compiled,
    dropping,
    masking,
    measure_engine,
)
from pipeline.bench.operations import (
    counted,
    matmul_tasks,
    operations_an_image,
    operations_of_matmul,
)
from pipeline.bench.stages import stage_seconds
from pipeline.sources.decode import decode
from tests.conftest import random_images

LOOK = PRESETS["imagenet"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return timm.create_model("test_vit").eval()


def classifier_of(network, tokens="drop", stride=45):
    ablation = Ablation(kind="column", size=19, stride=stride, height=224, width=224)
    return base_classifier(network, ablation, LOOK, tokens).eval()


def test_the_published_path_votes_as_the_engine_does(network):
    classifier, pixels = classifier_of(network), random_images(3, 224)
    published = PublishedDrop(classifier)(torch.from_numpy(pixels))
    ballot = SmoothedClassifier(classifier, CPU, 16, gaps=True)(pixels)
    assert len(np.unique(ballot.votes_bv)) > 1
    np.testing.assert_array_equal(published.numpy(), ballot.votes_bv)


def test_operations_are_those_of_the_network(network):
    """By hand for a plain Vision Transformer: D channels, T tokens, 3 x P x P pixels of a token."""
    channels, side, depth = network.embed_dim, 16, len(network.blocks)
    hidden = network.blocks[0].mlp.fc1.out_features
    classes = network.num_classes

    def by_hand(tokens: int) -> float:
        length = tokens + network.num_prefix_tokens
        linear = length * channels * (4 * channels + 2 * hidden)
        attention = 2 * length * length * channels
        embed = tokens * 3 * side * side * channels
        return 2.0 * (depth * (linear + attention) + embed + channels * classes)

    classifier = classifier_of(network)
    views = {count: len(views) for count, views in classifier.groups()}
    expected = by_hand(14 * 14) + sum(n * by_hand(count) for count, n in views.items())
    counts = operations_an_image(classifier)
    assert counts.nominal == pytest.approx(expected, rel=1e-6)
    assert counts.full_passes == pytest.approx(expected / by_hand(14 * 14), rel=1e-6)
    assert 0.8 * counts.nominal < counts.executed < counts.nominal
    assert operations_an_image(classifier).executed == counts.executed  # nothing stays changed
    black = operations_an_image(classifier_of(network, "black"))
    assert black.nominal == black.executed > 3 * counts.nominal


def test_products_are_named_by_their_operations():
    name, task = next(iter(matmul_tasks(torch.float32, CPU).items()))
    assert counted(task) == operations_of_matmul(name)


def test_the_least_time_counts_and_tasks_take_turns():
    order = []
    tasks = {name: (lambda name=name: order.append(name)) for name in "ab"}
    seconds = side_by_side(tasks, 2, CPU)
    assert order == list("ab" * 3)
    assert all(0 < value < 1 for value in seconds.values())


def test_a_whole_measurement_is_json_with_every_contender():
    settings = EngineSettings(
        model="test_vit",
        cnn="test_resnet",
        strides=(45, 112),
        masks=(2,),
        images=2,
        rounds=1,
        microbatch=16,
    )
    result = json.loads(json.dumps(measure_engine(settings)))
    paces = {pace["name"]: pace for pace in result["paces"]}
    assert {dropping(45), dropping(112), masking(2), BLACK, PUBLISHED} < set(paces)
    assert all(pace["images_a_second"] > 0 for pace in paces.values())
    drop = paces[dropping(45)]
    assert drop["ablations_a_second"] == pytest.approx(5 * drop["images_a_second"])
    # Ten views of half of the image and more, against five bands.
    pairs = paces[masking(2)]
    assert pairs["ablations_a_second"] == pytest.approx(10 * pairs["images_a_second"])
    assert drop["full_passes"] < 2.5 < pairs["full_passes"] < 11
    assert 0 < drop["share_executed"] < drop["share_nominal"]
    ratio = drop["ablations_a_second"] / paces[BLACK]["ablations_a_second"]
    assert result["ratios"]["dropping over black tokens, float32"] == pytest.approx(ratio)
    assert all(pace["peak_gpu_memory_mib"] is None for pace in paces.values())
    assert {"decode, one core", "embed", "write"} < set(result["stages"]["float32"])


def test_the_stages_of_a_pass_leave_it_as_it_was(network):
    classifier, pixels = classifier_of(network), random_images(3, 224)
    smoothed = SmoothedClassifier(classifier, CPU, 16)
    before = smoothed(pixels).votes_bv
    parts = [classifier, network, smoothed, classifier.encoder.last]
    parts += [module for block in network.blocks for module in (block.attn, block.mlp)]
    kept = [dict(vars(part)) for part in parts]
    stages = stage_seconds(smoothed, pixels, CPU)
    inside = {name.split(" ")[0] for name in stages}
    assert inside == {"decode,", "embed", "attention", "MLP", "head", "vote", "other", "write"}
    assert all(seconds > 0 for seconds in stages.values())
    assert [dict(vars(part)) for part in parts] == kept
    np.testing.assert_array_equal(smoothed(pixels).votes_bv, before)


def test_a_network_is_compiled_for_one_shape_or_says_why_not(network):
    batch, asked = torch.zeros(1, 3, 160, 160), []

    def compiler(given, *, dynamic):
        asked.append(dynamic)
        return given

    found, said = compiled(torch.nn.Identity(), batch, compiler)
    assert (found(batch).shape, said, asked) == (batch.shape, "compiled", [False])

    def broken(given, *, dynamic):
        def fails(_):
            raise RuntimeError("no C compiler")

        return fails

    assert compiled(network, batch, broken) == (network, "not compiled (RuntimeError)")


def test_synthetic_photographs_decode():
    assert decode(photo(50, 37, 0)).size == (50, 37)
    assert set(decode_rates(1)) == {
        f"{size}{way}" for size in ("500x375", "2000x1500") for way in ("", " scaled")
    }
