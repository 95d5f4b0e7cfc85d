"""Views that hide masks in both token modes: exact, the same bits anywhere, with early exit too."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch

from models.classifiers.black import BlackMasked
from models.classifiers.drop import TokenDropViT
from models.classifiers.smoothed import SmoothedClassifier
from models.views.family import Patch
from models.views.masks import Masks, Placement
from pipeline.certificates.early_exit import EarlyExit
from tests.conftest import lively_network, random_images, tiny_model
from tests.models.classifiers.dense_reference import dense_logits
from tests.models.classifiers.families import (
    DROPPABLE,
    MASKED,
    all_logits,
    lively,
    one_thread,
    preprocess_of,
)
from tests.models.classifiers.test_bit_identity import leaks
from tests.models.classifiers.test_families import assert_alike, network_of
from tests.models.classifiers.test_smoothed import CPU, MICROBATCH, Broken, Recorder


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


def masks_of(side: int, covers: int, rows: int, columns: int, *, pairs: bool = True) -> Masks:
    """Masks at so many starts an axis, which need not end where tokens do."""
    down, across = (Placement.covering(side, covers, most) for most in (rows, columns))
    patch = Patch.square(covers)
    return Masks.placed(
        height=side, width=side, placements=[(down, across)], pairs=pairs, covers=(patch,)
    )


def families_of(side: int) -> dict[str, Masks]:
    whole, wrapped = Placement(side, (0,)), Placement(side // 2, tuple(range(0, side, side // 4)))
    third = Placement.covering(side, side // 5, 3)
    plain = {"height": side, "width": side}
    return {
        "pairs": masks_of(side, side // 5, 2, 3),
        "alone": masks_of(side, side // 5, 2, 3, pairs=False),
        "full height": Masks.placed(**plain, placements=[(whole, third)], pairs=True),
        "wrapped": Masks.placed(**plain, placements=[(wrapped, wrapped)], pairs=False),
    }


def shown_by(masks: Masks, *, pairs: bool | None = None, grow: int = 0) -> np.ndarray:
    """Pixels that each view shows, pixel by pixel; ``pairs`` and ``grow`` make mutants."""
    numbers = range(len(masks.masks))
    two = masks.pairs if pairs is None else pairs
    shown = []
    for hidden in combinations_with_replacement(numbers, 2) if two else ((n, n) for n in numbers):
        pixels = np.ones((masks.height, masks.width), bool)
        for number in hidden:
            y, x, high, wide = masks.masks[number]
            for row in range(y, y + high + grow):
                for column in range(x, x + wide):
                    pixels[row % masks.height, column % masks.width] = False
        shown.append(pixels)
    return np.stack(shown)


def dense(network, images, shown_v, look, token, **mutation):
    references = [
        dense_logits(network, image, shown_v, look.mean, look.std, token=token, **mutation)
        for image in images
    ]
    return torch.stack(references)


@pytest.mark.parametrize("family", DROPPABLE)
def test_dropping_equals_masked_attention(family):
    _, _, side, token = DROPPABLE[family]
    network, look, images = network_of(family), preprocess_of(side), random_images(1, side)
    near_ties = 0
    for masks in families_of(side).values():
        dropped = all_logits(TokenDropViT(network, masks, look).eval(), torch.from_numpy(images))
        near_ties += assert_alike(dropped, dense(network, images, shown_by(masks), look, token))
        assert (dropped.amax(1) - dropped.amin(1)).max() > 0.1  # votes are alive
    assert near_ties <= 1


@pytest.mark.parametrize("family", MASKED)
def test_masking_equals_blackened_pixels(family):
    name, arguments, side = MASKED[family]
    network, look, images = lively(name, arguments), preprocess_of(side), random_images(1, side)
    near_ties = 0
    for masks in families_of(side).values():
        masked = all_logits(BlackMasked(network, masks, look).eval(), torch.from_numpy(images))
        near_ties += assert_alike(masked, dense(network, images, shown_by(masks), look, None))
        assert (masked.amax(1) - masked.amin(1)).max() > 0.05
    assert near_ties <= 1


@pytest.mark.parametrize("mode", [TokenDropViT, BlackMasked])
def test_mutants_fail(mode):
    """A mask one row too high, black that is grey, tokens in the wrong mode: all are seen."""
    network, look, images = network_of("ViT"), preprocess_of(64), random_images(1, 64)
    masks = families_of(64)["pairs"]
    logits = all_logits(mode(network, masks, look).eval(), torch.from_numpy(images))
    token, other = (16, None) if mode is TokenDropViT else (None, 16)
    for shown_v, kept, mutation in [
        (shown_by(masks, grow=1), token, {}),
        (shown_by(masks), token, {"fill": 0.5}),
        (shown_by(masks), other, {}),
        (np.roll(shown_by(masks), 1, axis=0), token, {}),
    ]:
        wrong = dense(network, images, shown_v, look, kept, **mutation)
        assert (logits - wrong).abs().max() > 1e-2


def models_of(family: str, *, pairs: bool = True):
    """The family's network in its token mode, on masks that cut tokens."""
    drops = family in DROPPABLE
    name, arguments, side = (DROPPABLE if drops else MASKED)[family][:3]
    masks = masks_of(side, side // 5, 3, 3, pairs=pairs)
    mode = TokenDropViT if drops else BlackMasked
    return mode(lively(name, arguments), masks, preprocess_of(side)).eval()


HIDING = ["ViT", "ViT avg", "registers", "BEiT", "relative", "ResNet", "ConvNeXt", "ViT black"]


@pytest.mark.parametrize("family", HIDING)
def test_hidden_pixels_enter_no_arithmetic(family):
    """Not even times zero: NaN and infinity in every hidden pixel change no bit."""
    model = models_of(family)
    images = torch.from_numpy(random_images(1, model.model_px[0]))
    image_s = torch.tensor([0])
    with torch.inference_mode():
        pixels = model.normalize(images)
        for view, shown in enumerate(torch.from_numpy(shown_by(model.views))):
            view_s = torch.tensor([view])
            clean = model(model.arrange(pixels), image_s, view_s)
            assert clean.isfinite().all()
            for poison in (float("nan"), float("inf"), -1e30):
                poisoned = torch.where(shown, pixels, torch.tensor(poison))
                assert torch.equal(clean, model(model.arrange(poisoned), image_s, view_s))
            # Were one hidden pixel shown, the test would see it.
            if view == 0:
                pixels_seen = torch.where(shown.roll(1, 0), pixels, torch.tensor(float("nan")))
                assert model(model.arrange(pixels_seen), image_s, view_s).isnan().any()


@pytest.mark.parametrize(
    ("family", "dtype"),
    [*((family, torch.float32) for family in HIDING), ("ViT", torch.bfloat16)],
    ids=str,
)
def test_no_slot_and_no_neighbour_changes_a_bit(family, dtype):
    """As of bands, in the largest group of equal views."""
    assert not leaks(models_of(family), microbatch=16, dtype=dtype)


def test_no_slot_and_no_neighbour_changes_a_bit_of_one_mask():
    assert not leaks(models_of("ViT", pairs=False), microbatch=16)


ALONE = masks_of(160, 32, 3, 3).alone


@pytest.fixture(scope="module")
def half_sure():
    """A network that agrees about some images under all masks, and not about others."""
    network = lively_network()
    with torch.no_grad():
        network.head.bias[3] += 5.5
    return tiny_model(network, masks_of(160, 32, 3, 3))


def asked(model, images):
    """The questions of early exit to images, with the logits behind them."""
    recorder = Recorder(model)
    classifier = SmoothedClassifier(recorder, CPU, MICROBATCH, gaps=True)
    return classifier.ask(images, EarlyExit(model.views)), recorder


def test_early_exit_asks_for_the_very_bits_of_all_views(half_sure):
    """Whoever shares the batch, and in whatever order: labels, gaps, logits and questions."""
    images, views = random_images(9, seed=3), len(half_sure.views)
    recorder = Recorder(half_sure)
    every = SmoothedClassifier(recorder, CPU, MICROBATCH, gaps=True)(images)
    together, _ = asked(half_sure, images)
    counts = (together.votes_bv >= 0).sum(axis=1)
    assert counts.min() < views == counts.max()
    assert (together.votes_bv[:, ALONE] >= 0).all()
    for order in ([0], [4, 4, 0], [8, 7, 6, 5, 4, 3, 2, 1, 0]):
        again, seen = asked(half_sure, images[order])
        assert seen.shapes == {MICROBATCH}
        for place, image in enumerate(order):
            known = again.votes_bv[place] >= 0
            np.testing.assert_array_equal(again.votes_bv[place], together.votes_bv[image])
            np.testing.assert_array_equal(again.plain_b[place], every.plain_b[image])
            for ours, theirs in ((again.votes_bv, every.votes_bv), (again.gaps_bv, every.gaps_bv)):
                np.testing.assert_array_equal(ours[place][known], theirs[image][known])
            for view in np.flatnonzero(known).tolist():
                reference = recorder.logits[image, view][0]
                assert all(torch.equal(reference, row) for row in seen.logits[place, view])
            for view in np.flatnonzero(~known).tolist():
                assert (place, view) not in seen.logits


def test_early_exit_without_images_or_gaps(half_sure):
    classifier, order = SmoothedClassifier(half_sure, CPU, MICROBATCH), EarlyExit(half_sure.views)
    none = classifier.ask(random_images(1)[:0], order)
    assert none.votes_bv.shape == (0, len(half_sure.views))
    assert classifier.ask(random_images(1), order).gaps_bv is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_no_vote_with_early_exit(half_sure, value, monkeypatch):
    """Of a view that is always asked, and of the whole image."""
    images = random_images(4, seed=3)
    whole, _ = asked(half_sure, images)
    assert whole.finite_b is None
    monkeypatch.setattr(Broken, "value", value)
    monkeypatch.setattr(Broken, "view", int(ALONE[2]))
    order = EarlyExit(half_sure.views)
    broken = SmoothedClassifier(Broken(half_sure), CPU, MICROBATCH, gaps=True).ask(images, order)
    assert broken.finite_b.tolist() == [True, False, False, True]
    for ours, theirs in zip(broken.of_finite(), whole, strict=True):
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs[[0, 3]])
