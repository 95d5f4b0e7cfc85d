"""The look at the bits finds what it is for: each of these classifiers breaks its assumption."""

import numpy as np
import pytest
import torch

from models.classifiers.bits import find_leak, passes
from models.classifiers.smoothed import SmoothedClassifier
from tests.conftest import lively_network, tiny_ablation, tiny_model
from tests.models.classifiers.families import one_thread

CPU = torch.device("cpu")
MICROBATCH = 16


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def sound():
    return tiny_model(lively_network(), tiny_ablation())


class Broken:
    """A classifier whose logits are changed after they are computed."""

    def __init__(self, inner, change):
        self.inner, self.views, self.change = inner, inner.views, change

    def groups(self):
        return self.inner.groups()

    def tokens(self, images):
        return self.inner.tokens(images)

    def __call__(self, tokens, image_s, view_s):
        return self.change(self.inner(tokens, image_s, view_s).clone(), tokens[image_s])


def last_bit(logits, where):
    """Flip the lowest bit of the first logit of some sequences."""
    logits.view(torch.int32)[where, 0] ^= 1
    return logits


def at_slot(number):
    return lambda logits, _: last_bit(logits, torch.tensor([number]))


def beside(slot, neighbour, seen):
    """The bit of one slot depends on what stands in one other."""
    return lambda logits, tokens_s: (
        last_bit(logits, torch.tensor([slot])) if seen(tokens_s[neighbour]) else logits
    )


def nan(tokens):
    return bool(tokens.isnan().any())


def large(tokens):
    return bool((tokens.abs() > 100).any() and tokens.isfinite().all())


@pytest.mark.parametrize("slot", [1, 8, 15])
def test_a_slot_that_computes_otherwise_is_named(sound, slot):
    broken = SmoothedClassifier(Broken(sound, at_slot(slot)), CPU, MICROBATCH)
    assert f"slot {slot} of 16, beside copies of itself" in find_leak(broken, thorough=True)


def test_a_neighbour_that_leaks_is_named(sound):
    broken = SmoothedClassifier(Broken(sound, beside(6, 7, large)), CPU, MICROBATCH)
    assert "slot 6 of 16, beside noise" in find_leak(broken, thorough=True)


def test_every_pair_of_slots_is_looked_at(sound):
    """Any slot may leak into any other."""
    for slot in range(MICROBATCH):
        for other in set(range(MICROBATCH)) - {slot}:
            flat = Flat(sound, beside(slot, other, nan))
            assert find_leak(SmoothedClassifier(flat, CPU, MICROBATCH), thorough=True)


class Flat(Broken):
    """The same without a network."""

    def __call__(self, tokens, image_s, view_s):
        return self.change(torch.zeros(MICROBATCH, 3), tokens[image_s])


def test_a_quick_look_is_a_few_passes_and_finds_what_every_slot_suffers(sound):
    calls = []

    def counting(logits, tokens_s):
        calls.append(len(tokens_s))
        return logits + (1 if tokens_s[0].isnan().any() else 0)

    broken = SmoothedClassifier(Broken(sound, counting), CPU, MICROBATCH)
    assert "beside NaN" in find_leak(broken, thorough=False)
    assert calls == [MICROBATCH] * 3


class ThreeLengths(Flat):
    """Views of three token counts, of which one computes otherwise at a slot."""

    def __init__(self, inner, broken):
        super().__init__(inner, None)
        self.broken = broken

    def groups(self):
        yield from [(5, np.array([0])), (9, np.array([1, 2])), (12, np.array([3]))]

    def __call__(self, tokens, image_s, view_s):
        logits = torch.zeros(MICROBATCH, 3)
        return last_bit(logits, torch.tensor([3])) if int(view_s[0]) == self.broken else logits


@pytest.mark.parametrize(("view", "count"), [(0, 5), (1, 9), (3, 12)])
def test_a_quick_look_is_at_the_shortest_and_the_longest_sequences(sound, view, count):
    broken = SmoothedClassifier(ThreeLengths(sound, view), CPU, MICROBATCH)
    assert f"sequences of {count} tokens" in find_leak(broken, thorough=False)


def test_nan_that_reaches_every_slot_is_found(sound):
    """All logits are then NaN, and equal."""

    def mixing(logits, tokens_s):
        return logits + tokens_s.mean() * 0

    broken = SmoothedClassifier(Broken(sound, mixing), CPU, MICROBATCH)
    assert "beside NaN" in find_leak(broken, thorough=False)


@pytest.mark.parametrize("thorough", [False, True], ids=["quick", "thorough"])
def test_a_sound_classifier_passes(sound, thorough):
    calls = []
    counted = Broken(sound, lambda logits, _: (calls.append(0), logits)[1])
    assert find_leak(SmoothedClassifier(counted, CPU, MICROBATCH), thorough=thorough) is None
    assert len(calls) == (passes(sound, MICROBATCH) if thorough else 3 * len(list(sound.groups())))
