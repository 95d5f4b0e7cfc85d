"""Votes that end early are those of the full ballot, bit for bit, whatever shares the batch."""

import numpy as np
import pytest
import torch
from families import one_thread
from test_smoothing import Recorder

from models.curtailed import CurtailedClassifier
from models.order import looks
from models.smoothing import SmoothedClassifier
from tests.conftest import lively_network, random_images, tiny_ablation, tiny_model

CPU, MICROBATCH = torch.device("cpu"), 16


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def model():
    # 10 columns of two token counts.
    return tiny_model(lively_network(), tiny_ablation("column", 24, 16))


def after(ends):
    """Enough are so many votes, another number for each image, told by its first vote alone."""

    def suffices(votes_nv):
        cast_n = (votes_nv >= 0).sum(axis=1)
        return cast_n >= np.array(ends)[votes_nv[:, 0] % len(ends)]

    return suffices


def test_the_votes_cast_are_those_of_the_full_ballot(model):
    images = random_images(7)
    full, views = SmoothedClassifier(model, CPU, MICROBATCH)(images), len(model.ablation)
    curtailed = CurtailedClassifier(
        SmoothedClassifier(model, CPU, MICROBATCH), after([6, 8, 10, 7])
    )
    ballot = curtailed(images)
    cast = ballot.votes_bv >= 0
    np.testing.assert_array_equal(ballot.votes_bv[cast], full.votes_bv[cast])
    np.testing.assert_array_equal(ballot.plain_b, full.plain_b)
    ends = np.array([6, 8, 10, 7])[full.votes_bv[:, 0] % 4]
    np.testing.assert_array_equal(cast.sum(axis=1), ends)
    assert len(set(ends.tolist())) > 1
    # Which ones: the first in the order of voting.
    place = np.argsort(curtailed.order_p)
    np.testing.assert_array_equal(cast, place < ends[:, None])
    assert set(ends.tolist()) <= set(looks(views).tolist())


def test_logits_are_equal_bit_for_bit(model):
    images = random_images(5)
    full, early = Recorder(model), Recorder(model)
    SmoothedClassifier(full, CPU, MICROBATCH)(images)
    CurtailedClassifier(SmoothedClassifier(early, CPU, MICROBATCH), after([6, 7, 9]))(images)
    assert early.shapes == full.shapes == {MICROBATCH}
    assert set(early.logits) <= set(full.logits)
    for key, rows in early.logits.items():
        assert all(torch.equal(row, full.logits[key][0]) for row in rows)


def test_an_image_has_the_votes_that_it_has_alone(model):
    """Microbatches are filled up with later ablations, whose votes are dropped."""
    images = random_images(6)
    suffices = after([6, 8, 10, 7])
    classifier = SmoothedClassifier(model, CPU, MICROBATCH)
    together = CurtailedClassifier(classifier, suffices)(images)
    for number, image in enumerate(images):
        for microbatch in (MICROBATCH, 48):
            smoothed = SmoothedClassifier(model, CPU, microbatch)
            alone = CurtailedClassifier(smoothed, suffices)(image[None])
            np.testing.assert_array_equal(alone.votes_bv[0] >= 0, together.votes_bv[number] >= 0)
        alone = CurtailedClassifier(classifier, suffices)(image[None])
        np.testing.assert_array_equal(alone.votes_bv[0], together.votes_bv[number])


def test_fewer_sequences_are_computed(model):
    images = random_images(16)
    counts = []
    for suffices in (after([6]), after([10])):
        recorder = Recorder(model)
        smoothed = SmoothedClassifier(recorder, CPU, MICROBATCH)
        CurtailedClassifier(smoothed, suffices)(images)
        counts.append(sum(len(rows) for rows in recorder.logits.values()))
    assert counts == [6 * 16, 10 * 16]


def test_no_image_is_looked_at_before_its_time(model):
    """Whoever asks whether votes suffice sees a look's number of them, each image's own."""
    seen = []

    def never(votes_nv):
        seen.append((votes_nv >= 0).sum(axis=1))
        return np.zeros(len(votes_nv), bool)

    classifier = CurtailedClassifier(SmoothedClassifier(model, CPU, MICROBATCH), never)
    ballot = classifier(random_images(3))
    assert (ballot.votes_bv >= 0).all()
    assert sorted(np.concatenate(seen).tolist()) == sorted([5, 6, 7, 8, 9, 10] * 3)


def test_no_images_no_votes(model):
    classifier = CurtailedClassifier(SmoothedClassifier(model, CPU, MICROBATCH), after([1]))
    ballot = classifier(random_images(1)[:0])
    assert ballot.votes_bv.shape == (0, len(model.ablation))
    assert len(ballot.plain_b) == 0
