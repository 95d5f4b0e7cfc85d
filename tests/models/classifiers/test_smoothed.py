"""A vote depends on nothing but its own visible pixels: bit for bit, at one microbatch shape."""

import numpy as np
import pytest
import torch

from models.classifiers.black import BlackMasked
from models.classifiers.build import ClassSubset
from models.classifiers.smoothed import SmoothedClassifier
from models.classifiers.votes import ThresholdVoting
from tests.conftest import lively_network, random_images, tiny_ablation, tiny_model
from tests.models.classifiers.families import ablation_of, lively, one_thread, preprocess_of

MICROBATCH = 16
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


class Recorder:
    """A classifier that keeps the logits of each (image, view) it is asked for."""

    def __init__(self, classifier):
        self.inner, self.views = classifier, classifier.views
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


def record(model, images, views_bv=None):
    recorder = Recorder(model)
    SmoothedClassifier(recorder, CPU, MICROBATCH)(images, views_bv)
    return recorder


def masked_resnet():
    ablation = ablation_of("column", 10, 24, 48)
    return BlackMasked(lively("test_resnet"), ablation, preprocess_of(48)).eval()


@pytest.mark.parametrize(
    ("system", "dtype", "threads"),
    [
        ("drop", torch.float32, 1),
        ("drop", torch.float32, 2),
        ("drop", torch.bfloat16, 1),
        ("resnet", torch.float32, 1),
        ("resnet", torch.float32, 2),
    ],
    ids=str,
)
def test_logits_do_not_depend_on_the_batch(system, dtype, threads):
    """The same image alone, first, last, among others, among copies: equal bits everywhere."""
    torch.set_num_threads(threads)
    dropping = tiny_model(lively_network(), tiny_ablation("column", 24, 40))
    model = (dropping if system == "drop" else masked_resnet()).to(dtype)
    images = random_images(5, model.model_px[0])
    together = record(model, images)
    assert together.shapes == {MICROBATCH}
    rearranged = record(model, images[[3, 0, 2, 0, 4, 1]])
    alone = record(model, images[:1])
    # Some ablations, some of them twice, in any order.
    drawn = record(model, images[:2], np.array([[1, 0, 1, 1], [0, 0, 1, 0]]))
    assert drawn.shapes == {MICROBATCH}
    for view in range(len(model.views)):
        reference = together.logits[0, view][0]
        every = [
            *together.logits[0, view],
            *alone.logits[0, view],
            *rearranged.logits[1, view],
            *rearranged.logits[3, view],
            *drawn.logits.get((0, view), []),
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
    ballots = [SmoothedClassifier(model, CPU, size)(images) for size in (1, 7, 64)]
    for ballot in ballots[1:]:
        np.testing.assert_array_equal(ballot.votes_bv, ballots[0].votes_bv)
        np.testing.assert_array_equal(ballot.plain_b, ballots[0].plain_b)
    assert len(np.unique(ballots[0].votes_bv)) > 1


def test_votes_on_chosen_ablations_are_those_of_all(network):
    model = tiny_model(network, tiny_ablation("column", 24, 16))
    images = random_images(3)
    votes = SmoothedClassifier(model, CPU, MICROBATCH)
    every = votes(images)
    views_bv = np.random.default_rng(0).integers(0, len(model.views), (3, 25))
    chosen = votes(images, views_bv)
    np.testing.assert_array_equal(chosen.votes_bv, np.take_along_axis(every.votes_bv, views_bv, 1))
    np.testing.assert_array_equal(chosen.plain_b, every.plain_b)
    assert every.vote_sets is None
    assert every.gaps_bv is None
    for wrong in (views_bv[:2], views_bv[0], views_bv - 1, views_bv + len(model.views)):
        with pytest.raises(ValueError, match="views_bv"):
            votes(images, wrong)


@pytest.mark.parametrize("theta", [0.05, 0.2, 0.6])
def test_vote_sets_and_gaps_are_those_of_the_logits(network, theta):
    model = tiny_model(network, tiny_ablation("column", 24, 40))
    images, voting = random_images(3), ThresholdVoting(theta)
    recorder = Recorder(model)
    ballot = SmoothedClassifier(recorder, CPU, MICROBATCH, voting=voting, gaps=True)(images)
    assert ballot.vote_sets.shape == (3, len(model.views), int(1 / theta))
    for (image, view), (logits, *_) in recorder.logits.items():
        probability = torch.softmax(logits, 0)
        expected = [c for c in range(len(logits)) if float(probability[c]) >= theta]
        found = ballot.vote_sets[image, view]
        assert found[found >= 0].tolist() == expected
        assert (found[len(expected) :] == -1).all()
        top = logits.topk(2).values
        assert ballot.votes_bv[image, view] == logits.argmax()
        assert ballot.gaps_bv[image, view] == pytest.approx(float(top[0] - top[1]), rel=1e-3)


def test_a_classifier_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="training mode"):
        SmoothedClassifier(masked_resnet().train(), CPU, 4)
    with pytest.raises(ValueError, match="microbatch=0"):
        SmoothedClassifier(masked_resnet(), CPU, 0)


def test_no_images_give_no_votes(network):
    model, none = tiny_model(network, tiny_ablation()), np.empty((0, 160, 160, 3), np.uint8)
    ballot = SmoothedClassifier(model, CPU, 4, voting=ThresholdVoting(0.3), gaps=True)(none)
    assert ballot.votes_bv.shape == ballot.gaps_bv.shape == (0, 10)
    assert ballot.vote_sets.shape == (0, 10, 3)
    assert ballot.plain_b.shape == (0,)


class Broken(Recorder):
    """A classifier one of whose logits is no number: of a view of image 1, and of image 2 whole."""

    value, view = float("nan"), 3

    def __call__(self, tokens, image_s, view_s):
        logits = super().__call__(tokens, image_s, view_s)
        logits[(image_s == 1) & (view_s == self.view), 2] = self.value
        return logits

    def whole(self, tokens, image_s):
        logits = super().whole(tokens, image_s)
        logits[image_s == 2, 2] = self.value
        return logits


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_no_vote(network, value):
    model, images = tiny_model(network, tiny_ablation("column", 24, 40)), random_images(4)
    options = {"voting": ThresholdVoting(0.2), "gaps": True}
    whole = SmoothedClassifier(model, CPU, MICROBATCH, **options)(images)
    assert whole.finite_b is None
    broken = Broken(model)
    broken.value = value
    ballot = SmoothedClassifier(broken, CPU, MICROBATCH, **options)(images)
    assert ballot.finite_b.tolist() == [True, False, False, True]
    for ours, theirs in zip(ballot.of_finite(), whole, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs[[0, 3]])


def test_classes_that_are_left_out_are_no_error(network):
    model = tiny_model(network, tiny_ablation("column", 24, 40))
    some = SmoothedClassifier(ClassSubset(model, (1, 4), CPU), CPU, MICROBATCH, gaps=True)
    ballot = some(random_images(3))
    assert ballot.finite_b is None
    assert set(np.unique(ballot.votes_bv)) <= {1, 4}
    assert np.isfinite(ballot.gaps_bv).all()
