"""Who steps which parameters, and that a resumed optimizer steps on."""

from copy import deepcopy

import pytest
import torch

from pipeline.training.learner import Learner
from tests.pipeline.training.toy import CPU, batch, toy_recipe

LR = 1e-3


def muon(tmp_path, **config):
    return toy_recipe(tmp_path, optimizer="muon", lr=LR, warmup=0, weight_decay=0.0, **config)


def steps_of(learner):
    """What one step changes, by parameter."""
    before = {name: value.detach().clone() for name, value in learner.network.named_parameters()}
    learner.step(*batch())
    after = learner.network.named_parameters()
    return {name: (value.detach() - before[name]) for name, value in after}


def test_muon_steps_every_direction_of_a_gradient_alike(tmp_path):
    name = "blocks.0.mlp.fc1.weight"
    plain = toy_recipe(
        tmp_path, optimizer="sgd", lr=LR, warmup=0, weight_decay=0.0, views_per_image=3
    )
    gradient = torch.linalg.svdvals(steps_of(Learner(plain, CPU))[name])
    step = steps_of(Learner(muon(tmp_path, views_per_image=3), CPU))[name]
    turned = torch.linalg.svdvals(step) / (LR * 0.2 * max(step.shape) ** 0.5)
    assert gradient[5] < 0.3 * gradient[0]
    assert 0.6 < turned[5] <= turned[0] < 1.4


@pytest.mark.parametrize("name", ["head.weight", "patch_embed.proj.weight", "norm.weight"])
def test_muon_leaves_ends_and_vectors_to_adamw_at_half_the_rate(tmp_path, name):
    step = steps_of(Learner(muon(tmp_path), CPU))[name]
    # The first step of Adam is the rate in every element that has a gradient; Nesterov's lead
    # makes it 1.9 times that, before the momentum's correction for the next step.
    size = step.abs()[step != 0].median().item()
    assert LR / 2 <= size <= 2 * LR / 2


def test_muon_resumes_where_it_stopped(tmp_path):
    recipe = muon(tmp_path)
    straight, resumed = Learner(recipe, CPU), Learner(recipe, CPU)
    straight.step(*batch())
    resumed.load_state_dict(deepcopy(straight.state_dict()))
    assert all(
        torch.equal(one, two)
        for one, two in zip(steps_of(straight).values(), steps_of(resumed).values(), strict=True)
    )
