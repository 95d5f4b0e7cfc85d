"""Gradients against differences, and what the descent promises of its patches."""

import warnings

import numpy as np
import pytest
import torch

from models.classifiers.black import BlackMasked
from models.classifiers.determinism import reproducible_gradients
from models.classifiers.smoothed import SmoothedClassifier
from models.classifiers.votes import ThresholdVoting
from models.views.family import Patch
from models.views.threats import Threat
from pipeline.attack import gradient as gradient_module
from pipeline.attack.canvas import Canvas, rectangle
from pipeline.attack.descent import PatchDescent
from pipeline.attack.gradient import VoteGradient
from pipeline.attack.independent import shows_patch, votes_for
from pipeline.attack.placements import Attempt
from pipeline.attack.target import Target
from pipeline.runs.defense import Defense, Network
from tests.conftest import TINY, TINY_CLASSES, TINY_PREPROCESS, tiny_ablation, tiny_model
from tests.pipeline.attack.conftest import IMAGES

PATCH = Patch(8, 12)
CANVASES = [
    Canvas.of(lambda image=image: image, Threat(PATCH), TINY_PREPROCESS) for image in IMAGES
]
TARGET = Target.of(
    Defense(
        preprocess=TINY_PREPROCESS,
        network=Network(name=TINY, num_classes=TINY_CLASSES),
        views=tiny_ablation(),
        tokens="drop",
    ),
    PATCH,
)
CORNERS = [(0, 0), (70, 60), (152, 148), (31, 100)]


@pytest.fixture(scope="module")
def smoothed(network):
    """The tiny network, voting on ten columns."""
    return SmoothedClassifier(tiny_model(network, tiny_ablation()), torch.device("cpu"), 16)


def attempts_on(smoothed, count=4, rival=None) -> list[Attempt]:
    votes = smoothed(IMAGES[:count]).votes_bv
    made = []
    for image, (y, x) in zip(range(count), CORNERS, strict=False):
        seen = shows_patch(smoothed.classifier.views, PATCH, y, x)
        prediction = int(np.bincount(votes[image]).argmax())
        made.append(
            Attempt(
                image=image,
                y=y,
                x=x,
                patch=PATCH,
                on_grid=CANVASES[image].reach.changed(y, x, PATCH),
                target=TARGET,
                rival=(prediction + 1) % TINY_CLASSES if rival is None else rival,
                touched_v=seen,
                prediction=prediction,
                votes=votes[image],
                kept_c=votes_for(votes[image][~seen], None, TINY_CLASSES),
                seed=(1, image),
            )
        )
    return made


def pasted(attempts, patches) -> np.ndarray:
    images = IMAGES[: len(attempts)].astype(patches.dtype)
    for image, attempt, patch in zip(images, attempts, patches, strict=True):
        image[attempt.y : attempt.y + 8, attempt.x : attempt.x + 12] = patch
    return images


def seen(attempts):
    return [np.flatnonzero(attempt.touched_v) for attempt in attempts]


@pytest.mark.parametrize("mode", ["drop", "black"])
def test_a_hidden_pixel_has_no_gradient_at_all(network, mode):
    ablation = tiny_ablation("block", 40, 40)
    model = tiny_model(network, ablation)
    if mode == "black":
        model = BlackMasked(network, ablation, TINY_PREPROCESS).eval()
    for view in (0, 6, len(ablation) - 1):
        pixels = torch.from_numpy(IMAGES[:1].astype(np.float32)).requires_grad_()
        logits = model(model.tokens(pixels), torch.tensor([0]), torch.tensor([view]))
        logits[0, 0].backward()
        gradient = pixels.grad[0].abs().amax(dim=2).numpy()
        assert (gradient[~ablation.visible(view)] == 0).all()
        assert (gradient[ablation.visible(view)] > 0).mean() > 0.9


def test_gradients_are_those_of_differences(smoothed):
    attempts, look = attempts_on(smoothed), VoteGradient(smoothed, TARGET)
    rng = np.random.default_rng(0)
    pixels = rng.integers(20, 236, (4, 8, 12, 3)).astype(np.float32)
    found = look(pasted(attempts, pixels), attempts, seen(attempts))
    assert (found.losses_a > 0).all()
    for image in range(4):
        gradient = found.gradient_ahwc[image][rectangle(*attempts[image].on_grid)]
        step = 0.5 * np.sign(gradient)
        losses = []
        for sign in (1, -1):
            moved = pixels.copy()
            moved[image] += sign * step
            losses.append(look(pasted(attempts, moved), attempts, seen(attempts)).losses_a)
        expected = 2 * (gradient * step).sum()
        assert losses[0][image] - losses[1][image] == pytest.approx(expected, rel=0.1)
        # The patches of other images have no part in it.
        others = np.arange(4) != image
        np.testing.assert_allclose(losses[0][others], losses[1][others], rtol=1e-5)


def test_leads_are_those_of_the_votes(smoothed):
    attempts, look = attempts_on(smoothed), VoteGradient(smoothed, TARGET)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 8, 12, 3))
    found = look(pasted(attempts, pixels), attempts, seen(attempts))
    votes = smoothed(pasted(attempts, pixels.astype(np.uint8))).votes_bv
    for attempt, lead, row in zip(attempts, found.leads_a, votes, strict=True):
        counts = np.bincount(row, minlength=TINY_CLASSES)
        assert (lead < 0) == (counts.argmax() != attempt.prediction)
        rivals = [
            counts[c] + (c < attempt.prediction)
            for c in range(TINY_CLASSES)
            if c != attempt.prediction
        ]
        assert lead == counts[attempt.prediction] - max(rivals)


def test_passes_of_one_sequence_change_nothing_but_roundings(smoothed, monkeypatch):
    attempts, look = attempts_on(smoothed), VoteGradient(smoothed, TARGET)
    pixels = np.full((4, 8, 12, 3), 90, np.float32)
    whole = look(pasted(attempts, pixels), attempts, seen(attempts))
    monkeypatch.setattr(gradient_module, "_SEQUENCES", 1)
    single = look(pasted(attempts, pixels), attempts, seen(attempts))
    np.testing.assert_array_equal(whole.leads_a, single.leads_a)
    np.testing.assert_allclose(whole.gradient_ahwc, single.gradient_ahwc, rtol=1e-3, atol=1e-6)


def test_a_descent_wins_what_random_pixels_do_not(smoothed):
    attempts = attempts_on(smoothed)
    start, _ = PatchDescent(smoothed, TARGET, steps=1, views=10)(CANVASES[:4], attempts)
    patches, wins = PatchDescent(smoothed, TARGET, steps=12, views=10)(CANVASES[:4], attempts)
    assert patches.dtype == np.uint8
    look = VoteGradient(smoothed, TARGET)
    losses = [
        look(pasted(attempts, made), attempts, seen(attempts)).losses_a.sum()
        for made in (start, patches)
    ]
    assert losses[1] < 0.8 * losses[0]
    votes = smoothed(pasted(attempts, patches)).votes_bv
    predictions = [np.bincount(row).argmax() for row in votes]
    assert wins.tolist() == [p != a.prediction for p, a in zip(predictions, attempts, strict=True)]


def test_a_seed_says_all_and_another_says_something_else(smoothed):
    descent, attempts = PatchDescent(smoothed, TARGET, steps=3, views=10), attempts_on(smoothed)
    first, again = (descent(CANVASES[:4], attempts)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = [Attempt(**{**vars(attempt), "seed": (2, 0)}) for attempt in attempts]
    assert (descent(CANVASES[:4], other)[0] != first).any()


def test_where_few_ablations_are_asked_nothing_is_claimed(smoothed):
    attempts = attempts_on(smoothed)
    assert min(attempt.touched_v.sum() for attempt in attempts) > 1
    patches, wins = PatchDescent(smoothed, TARGET, steps=3, views=1)(CANVASES[:4], attempts)
    assert not wins.any()
    assert patches.std() > 0


def test_threshold_votes_are_counted_as_sets(network):
    model = tiny_model(network, tiny_ablation())
    smoothed = SmoothedClassifier(model, torch.device("cpu"), 16, voting=ThresholdVoting(0.2))
    look, attempts = VoteGradient(smoothed, TARGET), attempts_on(smoothed)
    # A softmax of 0.8 leaves no other class 0.2.
    assert look.won > np.log(0.8 / 0.2)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 8, 12, 3))
    found = look(pasted(attempts, pixels), attempts, seen(attempts))
    sets = smoothed(pasted(attempts, pixels.astype(np.uint8))).vote_sets
    for image, attempt in enumerate(attempts):
        counts = attempt.kept_c + votes_for(sets[image][attempt.touched_v], None, TINY_CLASSES)
        rivals = counts + (np.arange(TINY_CLASSES) < attempt.prediction)
        rivals[attempt.prediction] = -1
        assert found.leads_a[image] == counts[attempt.prediction] - rivals.max()


def test_the_settings_of_torch_are_put_back():
    before = torch.are_deterministic_algorithms_enabled()
    with reproducible_gradients():
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == before


def test_a_gradient_that_is_not_finite_moves_no_pixel(smoothed, monkeypatch):
    honest = VoteGradient.__call__

    def broken(*given):
        found = honest(*given)
        found.gradient_ahwc[0] = np.nan
        return found

    monkeypatch.setattr(VoteGradient, "__call__", broken)
    attempts = attempts_on(smoothed, 1)
    first = np.random.default_rng(attempts[0].seed).integers(0, 256, (8, 12, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a number that no pixel can be
        (patch,), _ = PatchDescent(smoothed, TARGET, steps=3, views=128)(CANVASES[:1], attempts)
    np.testing.assert_array_equal(patch, first)
