import copy
from argparse import Namespace

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import checkpoint_filter_fn

from models.errors import WeightsError
from pipeline.config import ConfigError
from pipeline.training.learner import DivergedError, Learner, check_network, starting_network
from pipeline.training.objective import losses_of, target_of
from tests.conftest import TINY
from tests.pipeline.training.toy import CLASSES, CPU, batch, toy_recipe, write_init


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def test_average_is_the_warmed_up_moving_average(tmp_path):
    learner = Learner(toy_recipe(tmp_path, average=0.5), CPU)
    expected = weights(learner.network)
    for step in range(1, 5):
        learner.step(*batch(seed=step))
        decay = 0.0 if step == 1 else min(0.5, 1 - step**-0.75)
        now = weights(learner.network)
        expected = {k: decay * v + (1 - decay) * now[k] for k, v in expected.items()}
    found = learner.result.state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    assert any(not torch.equal(found[key], now[key]) for key in found)


def test_without_an_average_the_network_is_the_result(tmp_path):
    learner = Learner(toy_recipe(tmp_path, average=0.0), CPU)
    assert learner.result is learner.network


def test_a_head_of_the_same_length_is_kept_and_another_replaced(tmp_path):
    recipe = toy_recipe(tmp_path)
    init = load_file(recipe.defense.network.weights)
    torch.testing.assert_close(starting_network(recipe).state_dict(), init)
    larger = starting_network(toy_recipe(tmp_path, num_classes=5)).state_dict()
    assert larger["head.weight"].shape[0] == 5
    assert all(torch.equal(larger[key], init[key]) for key in init if "head." not in key)


def test_weights_of_another_network_are_refused(tmp_path):
    recipe = toy_recipe(tmp_path, init=str(write_init(tmp_path / "o.safetensors")))
    with pytest.raises(WeightsError, match="do not fit test_vit2"):
        check_network(toy_recipe(tmp_path, model="test_vit2", init=recipe.config.init))


def test_tokens_that_do_not_tile_the_input_are_a_mistake_of_the_request(tmp_path):
    with pytest.raises(ConfigError, match=r"takes 128x128.*gives 140x140.*--pixel-scale"):
        check_network(toy_recipe(tmp_path, pixel_scale=7))


def test_weights_of_another_size_begin_with_their_positions_resampled(tmp_path):
    """Of 14 x 14 tokens to 10 x 10, as timm does, and nothing else changes."""
    model = "vit_tiny_patch16_224"
    init = write_init(tmp_path / "o.safetensors", model=model)
    found = starting_network(toy_recipe(tmp_path, init=str(init))).state_dict()
    network = timm.create_model(model, num_classes=CLASSES, img_size=160)
    expected = checkpoint_filter_fn(load_file(init), network)
    assert found["pos_embed"].shape == (1, 101, 192)
    torch.testing.assert_close(found, dict(expected))


def test_the_enlargement_is_part_of_a_training_s_identity_once(tmp_path):
    ids = {toy_recipe(tmp_path, pixel_scale=scale).training_id for scale in (None, 8, 4)}
    assert len(ids) == 2  # the weights' own is 8


def test_views_are_spread_and_do_not_depend_on_how_the_batch_is_shared(tmp_path):
    recipe = toy_recipe(tmp_path, views_per_image=5)
    whole = Learner(recipe, CPU)
    views = whole._views(12).numpy()
    family = len(recipe.defense.views)
    assert views.shape == (12, 5)
    for row in views:
        np.testing.assert_array_equal(np.diff(np.sort(row)), family // 5)
    halves = [Learner(recipe, CPU) for _ in range(2)]
    for rank, half in enumerate(halves):
        half.rank = rank
    np.testing.assert_array_equal(np.concatenate([half._views(6) for half in halves]), views)
    whole.done = 1
    assert not np.array_equal(whole._views(12), views)


def test_lower_layers_learn_slower_with_layer_decay(tmp_path):
    learner = Learner(toy_recipe(tmp_path, layer_decay=0.5, warmup=0), CPU)
    learner.step(*batch())
    rate = {id(p): group["lr"] for group in learner.optimizer.param_groups for p in group["params"]}
    network = learner.network
    assert rate[id(network.head.weight)] == pytest.approx(2e-3)
    below = rate[id(network.patch_embed.proj.weight)] / rate[id(network.head.weight)]
    assert below == pytest.approx(0.5 ** (len(network.blocks) + 1))


@pytest.mark.parametrize(
    "option",
    [
        {"teacher": "self"},
        {"mix": "mixup"},
        {"mix": "cutmix", "views_per_image": 3},
        {"tokens": "black"},
        {"optimizer": "sgd", "schedule": "step", "lr": 0.01},
        {"optimizer": "muon", "layer_decay": 0.9},
        {"dtype": "bfloat16", "views_per_image": 2},
        {"drop_path": 0.2},
        {"token_dropout": 0.5, "teacher": "self"},
        {"margin": 0.9, "views_per_image": 3},
        {"hardest_of": 3, "dtype": "bfloat16", "token_dropout": 0.5},
    ],
)
def test_every_option_learns_and_repeats(tmp_path, option):
    """Twice the same steps give the same bits, whatever was drawn in between."""
    recipe = toy_recipe(tmp_path, **option)
    results = []
    for noise in (0, 1):
        learner = Learner(recipe, CPU)
        before = weights(learner.network)
        for step in range(2):
            torch.rand(noise)
            learner.step(*batch(seed=step))
        after = weights(learner.network)
        assert not torch.equal(before["head.weight"], after["head.weight"])
        assert all(torch.isfinite(value).all() for value in after.values())
        results.append(after)
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


@pytest.mark.parametrize("tokens", ["drop", "black"])
def test_threads_do_not_decide_in_which_order_gradients_are_summed(tmp_path, tokens):
    """Of a position that many sequences have, which two threads would add to as they come."""
    recipe = toy_recipe(tmp_path, views_per_image=3, tokens=tokens)
    threads, results = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        for _ in range(3):
            learner = Learner(recipe, CPU)
            for step in range(2):
                learner.step(*batch(seed=step))
            results.append(weights(learner.network))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(results[0][key], other[key]) for key in other)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_batch_has_every_view_as_often_and_each_token_count_as_many_sequences(tmp_path):
    """A shape that changes from step to step is compiled again and again in bfloat16."""
    recipe = toy_recipe(tmp_path, batch=24, views_per_image=2)
    learner = Learner(recipe, CPU)
    drawn = np.zeros((len(recipe.defense.views), 2), dtype=int)
    sequences, first_images = set(), []
    for learner.done in range(400):
        views_bn = learner._views(24).numpy()
        np.add.at(drawn, (views_bn, [0, 1]), 1)
        sequences.add(tuple(np.bincount(learner.forward.group_v.numpy()[views_bn].flatten())))
        first_images.append(views_bn[0, 0])
    expected = 400 * 24 / len(drawn)
    assert np.abs(drawn - expected).max() < 5 * np.sqrt(expected)
    assert np.ptp(np.array(sorted(sequences)), axis=0).max() <= 2
    assert len(set(first_images)) == len(drawn)


def test_the_products_of_bfloat16_are_plain_and_those_of_float32_fused(tmp_path):
    """Their logits are alike; the gradient of fused bfloat16 is what takes the time."""
    fused, plain = (
        Learner(toy_recipe(tmp_path, dtype=dtype), CPU) for dtype in ("float32", "bfloat16")
    )
    assert {block.attn.fused_attn for block in fused.network.blocks} == {True}
    assert {block.attn.fused_attn for block in plain.network.blocks} == {False}
    plain.network.load_state_dict(fused.network.state_dict())
    images, views = batch()[0], torch.zeros(12, 1, dtype=torch.int64)
    torch.testing.assert_close(fused.forward(images, views), plain.forward(images, views))


def test_the_last_quarter_of_the_steps_sees_all_tokens(tmp_path):
    learner = Learner(toy_recipe(tmp_path, token_dropout=0.5, epochs=4), CPU)
    rates = []
    for _ in range(learner.steps):
        learner.step(*batch())
        rates.append(learner.forward.tokens_of_view)
    quarter = learner.steps // 4
    half = int(learner.forward.classifier.token_counts.mean() / 2)
    assert rates == [half] * (learner.steps - quarter) + [None] * quarter


def test_half_of_the_tokens_of_an_ablation_are_left_out_of_training_and_of_nothing_else(tmp_path):
    """Of the mean ablation's, so that all are one shape."""
    learners = [Learner(toy_recipe(tmp_path, token_dropout=rate), CPU) for rate in (0.0, 0.5)]
    seen: list[set[int]] = []
    for learner in learners:
        lengths, prefix = set(), learner.network.num_prefix_tokens
        learner.network.blocks[0].register_forward_pre_hook(
            lambda _, given, lengths=lengths, prefix=prefix: lengths.add(given[0].shape[1] - prefix)
        )
        learner.step(*batch())
        seen.append(lengths)
    counts = learners[0].forward.classifier.token_counts
    assert len(set(counts.tolist())) == 2
    assert seen == [set(counts.tolist()), {int(counts.mean() / 2)}]

    plain, dropping = learners
    dropping.network.load_state_dict(plain.network.state_dict())
    images, views = batch()[0], torch.zeros(12, 1, dtype=torch.int64)
    for learner in learners:
        learner.forward.eval()
        learner.forward.drop_tokens(0.0)
    torch.testing.assert_close(plain.forward(images, views), dropping.forward(images, views))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_learns_from_the_views_of_the_largest_loss_and_as_from_any(tmp_path, dtype):
    """The same views given to a plain step make the same weights, bit for bit."""
    options = {"dtype": dtype, "views_per_image": 2}
    learner = Learner(toy_recipe(tmp_path, **options, hardest_of=5), CPU)
    plain = Learner(toy_recipe(tmp_path, **options), CPU)
    before = weights(learner.network)
    asked = []
    learner.forward.register_forward_pre_hook(lambda _, given: asked.append(given[1]))
    images, labels = batch()
    learner.step(images, labels)
    candidates, hardest = asked
    assert [tuple(views.shape) for views in asked] == [(12, 5), (12, 2)]

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        logits = plain.forward(images, candidates)
    losses = losses_of(logits, target_of(labels, CLASSES, plain.recipe.config.label_smoothing))
    for row in range(12):
        worst = np.argsort(losses[row].numpy())[-2:]
        assert set(candidates[row, worst].tolist()) == set(hardest[row].tolist())

    plain._views = lambda _: hardest
    plain.step(images, labels)
    after, expected = weights(learner.network), weights(plain.network)
    assert all(torch.equal(after[key], expected[key]) for key in after)
    assert not any(torch.equal(before[key], after[key]) for key in after if "weight" in key)


def test_dropout_of_tokens_that_do_not_drop_is_refused(tmp_path):
    message = r"--token-dropout 0.5: with --tokens black the network takes every token"
    with pytest.raises(ConfigError, match=message):
        toy_recipe(tmp_path, tokens="black", token_dropout=0.5)


def test_more_candidates_than_views_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--hardest-of 21: the family has 20 views"):
        toy_recipe(tmp_path, hardest_of=21)


def test_a_teacher_file_advises_on_whole_images(tmp_path):
    """All weight on the teacher and no ablation of its own: targets are the teacher's."""
    recipe = toy_recipe(tmp_path)
    with_teacher = toy_recipe(tmp_path, teacher=recipe.config.init, teacher_weight=1.0)
    learner, plain = Learner(with_teacher, CPU), Learner(recipe, CPU)
    assert learner.teacher is not None
    images, labels = batch()
    mistaken = (labels + 1) % 3
    other = copy.deepcopy(learner)
    learner.step(images, labels)
    other.step(images, mistaken)
    ours, theirs = weights(learner.network), weights(other.network)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    plain.step(images, labels)
    assert not torch.equal(plain.network.head.weight, learner.network.head.weight)


def test_a_teacher_of_another_network_is_refused(tmp_path):
    teacher = write_init(tmp_path / "teacher.safetensors", num_classes=4)
    with pytest.raises(WeightsError, match=r"teacher.safetensors do not fit"):
        check_network(toy_recipe(tmp_path, teacher=str(teacher)))


def test_a_step_that_diverges_is_not_taken_and_named(tmp_path):
    learner = Learner(toy_recipe(tmp_path, lr=2e-3, warmup=0, schedule="constant"), CPU)
    learner.step(*batch())
    with torch.no_grad():
        learner.network.head.bias[0] = float("inf")
    before = weights(learner.network)
    with pytest.raises(DivergedError, match=r"epoch 1, step 2 of 3, learning rate 0.002: loss nan"):
        learner.step(*batch())
    after = weights(learner.network)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert learner.done == 1


def test_a_head_that_is_missing_is_new(tmp_path):
    recipe = toy_recipe(tmp_path)
    init = load_file(recipe.defense.network.weights)
    headless = tmp_path / "headless.safetensors"
    save_file({key: value for key, value in init.items() if "head." not in key}, headless)
    recipe = toy_recipe(tmp_path, init=str(headless), model=TINY, preprocess="cifar10", size=4)
    check_network(recipe)
    state = starting_network(recipe).state_dict()
    assert state.keys() == init.keys()
    assert all(torch.equal(state[key], init[key]) for key in init if "head." not in key)


def test_weights_to_start_from_must_be_finite(tmp_path):
    recipe = toy_recipe(tmp_path)
    state = load_file(recipe.defense.network.weights)
    state["norm.bias"][0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    request = {"init": str(tmp_path / "nan.safetensors"), "model": TINY, "preprocess": "cifar10"}
    with pytest.raises(WeightsError, match=r"nan\.safetensors: 1 of .* not finite"):
        check_network(toy_recipe(tmp_path, **request))


def test_a_checkpoint_fine_tuned_after_mae_begins_a_training(tmp_path):
    toy_recipe(tmp_path)
    state = timm.create_model(TINY, num_classes=9, global_pool="avg").state_dict()
    torch.save({"model": state, "args": Namespace(lr=1)}, tmp_path / "mae.pth")
    request = {"init": str(tmp_path / "mae.pth"), "model": TINY, "preprocess": "cifar10", "size": 4}
    recipe = toy_recipe(tmp_path, **request)
    assert recipe.init["weights"] == "model"
    learner = Learner(recipe, CPU)
    assert learner.network.global_pool == "avg"
    assert torch.equal(learner.network.fc_norm.weight, state["fc_norm.weight"])
    assert learner.network.head.weight.shape[0] == 3
