"""Trainings on views that hide: estimates of their own rules, and weights that say so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.cli import main
from models.networks.weights import read_card
from models.views.family import Patch
from models.views.masks import Masks
from pipeline.config import ConfigError, VotesConfig
from pipeline.runs.resolve import resolve_defense
from pipeline.training.estimate import assumption
from pipeline.training.learner import Learner
from pipeline.training.local import train_locally
from pipeline.training.recipe import resolve_recipe
from tests.pipeline.training.test_loop import Told
from tests.pipeline.training.toy import CPU, batch, toy_config, toy_place, toy_recipe

PAIRS = {"views": "mask-pair", "covers": "4", "masks": "2"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    told = Told()
    recipe = toy_recipe(folder, epochs=2, views_per_image=2, **PAIRS)
    return recipe, train_locally(recipe, toy_place(folder), told), told


def test_the_estimates_are_of_the_rules_of_masks_and_say_what_they_assume(trained):
    _, _, told = trained
    assert told.lines[0] == (
        "train: of the estimates, two-location and one-location: assume a patch of at most 4x4 px"
    )
    figures = told.epochs[-1][1]
    assert {name for name in figures if name.startswith("validation/")} == {
        "validation/plain_accuracy",
        "validation/ablation_accuracy",
        *(
            f"validation/{what}_accuracy/{rule}/4px"
            for what in ("clean", "certified")
            for rule in ("two-location", "one-location")
        ),
    }
    for rule in ("two-location", "one-location"):
        clean, held = (
            figures[f"validation/{what}_accuracy/{rule}/4px"] for what in ("clean", "certified")
        )
        assert 0 < held <= clean


def test_bands_assume_nothing(tmp_path):
    assert assumption(toy_recipe(tmp_path).defense.views) is None


def test_a_run_finds_the_family_in_the_weights(trained):
    recipe, path, _ = trained
    views = resolve_defense(VotesConfig(data="x", weights=path)).views
    assert isinstance(views, Masks)
    assert views == recipe.defense.views
    assert (views.pairs, views.covers) == (True, (Patch(4, 4),))
    # Half of it is asked otherwise: the patch stays the weights' own.
    finer = resolve_defense(VotesConfig(data="x", weights=path, masks="3")).views
    assert isinstance(finer, Masks)
    assert (len(finer.masks), finer.covers) == (9, views.covers)
    assert len(resolve_defense(VotesConfig(data="x", weights=path, views="column")).views) == 20
    card = read_card(path)
    assert card.ablation["covers"] == "4x4"
    assert card.recipe["ablation"] == "mask-pair"
    with pytest.raises(ConfigError, match=r"masks of a 20x20 px image, not 16x16; .* --covers"):
        resolve_defense(VotesConfig(data="x", weights=path, crop="16"))


def test_a_training_goes_on_from_the_family_of_its_weights(trained):
    recipe, path, _ = trained
    again = resolve_recipe(replace(recipe.config, covers=None, masks=None, views=None, init=path))
    assert again.defense.views == recipe.defense.views
    wrapped = replace(recipe.config, covers=None, masks=None, size=14, stride=2, wrap=True)
    assert len(resolve_recipe(replace(wrapped, views="mask")).defense.views) == 100


def test_the_identity_of_ablations_is_that_of_the_first_checkpoints(tmp_path):
    """So that they resume: names and values as they were before there were masks."""
    identity = toy_recipe(tmp_path, views_per_image=3).identity()
    assert set(identity) == {
        *("ablation", "augment", "average", "batch", "clip", "data", "drop_path", "dtype"),
        *("epochs", "estimate", "image_column", "init", "label_column", "label_map"),
        *("label_smoothing", "layer_decay", "limit", "lr", "margin", "margin_weight", "mix"),
        *("mix_alpha", "model", "num_classes", "optimizer", "preprocess", "save_as", "schedule"),
        *("seed", "select", "size", "stride", "teacher", "teacher_weight", "token_dropout"),
        *("tokens", "validation", "views", "warmup", "weight_decay"),
    }
    names = ("ablation", "size", "stride", "views")
    assert [identity[name] for name in names] == ["column", 4, 1, 3]


def test_each_mask_is_in_the_identity(trained):
    recipe, _, _ = trained
    identity = recipe.identity()
    assert (identity["ablation"], identity["views"]) == ("mask-pair", 2)
    assert [mask[:2] for mask in identity["masks"]["masks"]] == [[0, 0], [0, 8], [8, 0], [8, 8]]
    as_size = toy_recipe(Path(recipe.config.data).parent, views="mask-pair", size=12, stride=8)
    assert as_size.training_id != recipe.training_id


@pytest.mark.parametrize("changes", [{}, {"token_dropout": 0.5}, {"tokens": "black"}])
def test_steps_draw_one_mask_and_two(tmp_path, changes):
    recipe = toy_recipe(tmp_path, views_per_image=3, **PAIRS, **changes)
    learner, views = Learner(recipe, CPU), recipe.defense.views
    drawn = []
    choose = learner._views
    learner._views = lambda count: drawn.append(choose(count)) or drawn[-1]
    before = {key: value.clone() for key, value in learner.network.state_dict().items()}
    for seed in range(4):
        learner.step(*batch(seed=seed))
    after = learner.network.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    seen = set(np.concatenate([numbers.numpy().ravel() for numbers in drawn]).tolist())
    assert seen == set(range(len(views)))
    assert set(views.alone.tolist()) < seen


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--views", "mask-pair"], "such as --covers 32"),
        (["--covers", "4"], "add --views mask-pair"),
        (["--views", "4"], "--views"),
        (["--ablation", "mask-pair", "--covers", "2of4"], "masks are cut for one patch"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(tmp_path, capsys, extra, message):
    config = toy_config(tmp_path)
    arguments = ["train", "--data", config.data, "--init", config.init, "--batch", "12"]
    arguments += ["--validation", "6", "--out", str(tmp_path / "out"), "--mlflow", "none"]
    assert main([*arguments, *extra]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_dry_run_says_what_the_estimates_assume(tmp_path, capsys):
    config = toy_config(tmp_path)
    arguments = ["train", "--data", config.data, "--init", config.init, "--batch", "12"]
    arguments += ["--validation", "6", "--views", "mask-pair", "--covers", "4x6", "--masks", "2"]
    assert main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "estimates:     two-location and one-location: assume a patch of at most 4x6 px" in said
