"""A vote depends on nothing but its own visible pixels: bit for bit, at one microbatch shape."""

import numpy as np
import pytest
import torch

from models.smoothing import SmoothedClassifier
from tests.conftest import lively_network, random_images, tiny_ablation, tiny_model

MICROBATCH = 16


class Recorder:
    """A classifier that keeps the logits of each (image, view) it is asked for."""

    def __init__(self, classifier):
        self.inner, self.ablation = classifier, classifier.ablation
        self.logits = {}
        self.shapes = set()

    def groups(self):
        return self.inner.groups()

    def tokens(self, images):
        return self.inner.tokens(images)

    def whole(self, tokens, image_s):
        return self.inner.whole(tokens, image_s)

    def __call__(self, tokens, image_s, view_s):
        logits = self.inner(tokens, image_s, view_s)
        self.shapes.add(len(logits))
        for image, view, row in zip(image_s.tolist(), view_s.tolist(), logits, strict=True):
            self.logits.setdefault((image, view), []).append(row.clone())
        return logits


def record(model, images):
    recorder = Recorder(model)
    SmoothedClassifier(recorder, torch.device("cpu"), MICROBATCH)(images)
    return recorder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_logits_do_not_depend_on_the_batch(dtype):
    """The same image alone, first, last, among others, among copies: equal bits everywhere."""
    network = lively_network().to(dtype)
    model = tiny_model(network, tiny_ablation("column", 24, 40))
    images = random_images(5)
    together = record(model, images)
    assert together.shapes == {MICROBATCH}
    rearranged = record(model, images[[3, 0, 2, 0, 4, 1]])
    alone = record(model, images[:1])
    for view in range(len(model.ablation)):
        reference = together.logits[0, view][0]
        every = [
            *together.logits[0, view],
            *alone.logits[0, view],
            *rearranged.logits[1, view],
            *rearranged.logits[3, view],
        ]
        assert all(torch.equal(reference, other) for other in every)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30], ids=str)
def test_neighbours_cannot_leak_at_any_slot(dtype, poison):
    network = lively_network().to(dtype)
    model = tiny_model(network, tiny_ablation("column", 24, 40))
    with torch.inference_mode():
        tokens = model.tokens(torch.from_numpy(random_images(2)))
        hostile = tokens.clone()
        hostile[1] = poison
        views = torch.zeros(MICROBATCH, dtype=torch.int64)
        quiet = model(tokens, torch.zeros(MICROBATCH, dtype=torch.int64), views)[0]
        for slot in range(MICROBATCH):
            which = torch.ones(MICROBATCH, dtype=torch.int64)
            which[slot] = 0
            assert torch.equal(model(hostile, which, views)[slot], quiet)


def test_votes_do_not_depend_on_the_microbatch_here(network):
    """Between shapes only the last bits move: labels agree on images without near-ties."""
    model = tiny_model(network, tiny_ablation())
    images = random_images(3)
    ballots = [SmoothedClassifier(model, torch.device("cpu"), size)(images) for size in (1, 7, 64)]
    for ballot in ballots[1:]:
        np.testing.assert_array_equal(ballot.votes_bv, ballots[0].votes_bv)
        np.testing.assert_array_equal(ballot.plain_b, ballots[0].plain_b)
    assert len(np.unique(ballots[0].votes_bv)) > 1


def test_lowest_class_wins_tied_logits():
    logits = torch.zeros((2, 5), dtype=torch.bfloat16)
    logits[1, 3] = logits[1, 2] = 1
    np.testing.assert_array_equal(SmoothedClassifier._argmax(logits), [0, 2])


def test_no_images_give_no_votes(network):
    ballot = SmoothedClassifier(tiny_model(network, tiny_ablation()), torch.device("cpu"), 4)(
        np.empty((0, 160, 160, 3), np.uint8)
    )
    assert ballot.votes_bv.shape == (0, 10)
    assert ballot.plain_b.shape == (0,)
