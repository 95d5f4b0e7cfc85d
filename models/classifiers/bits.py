"""Look for a slot of a microbatch, or a neighbour in it, that changes a bit of a view's logits.

The certificate assumes that the logits of a view are a function of what it shows. Which kernels
compute them is the business of libraries and devices, so it is looked at where the votes are cast.
Shapes: S sequences of a microbatch, L logits.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from models.classifiers.base import BaseClassifier
from models.classifiers.smoothed import SmoothedClassifier

_BESIDE = ("copies of itself", "NaN", "infinity", "noise", "another image")
_NEIGHBOURS = _BESIDE[1:]


@torch.inference_mode()
def find_leak(smoothed: SmoothedClassifier, *, thorough: bool) -> str | None:
    """Compare the logits of one view over slots and beside neighbours, bit for bit.

    One image stands in about half of the slots, what could disturb it in the others; it is held
    against itself in all of them. Of a thorough look every slot meets a neighbour of every kind in
    every other slot: two slots differ in a binary digit of their numbers, and there is a pass for
    each value of each digit, each kind of neighbour and each token count. A quick look is the even
    and the odd slots beside NaN, at the fewest tokens, at the most, which may take other kernels,
    and at the count that most views have.

    Args:
        smoothed: The classifier that votes, with its device and microbatch.
        thorough: All passes, instead of three a token count.

    Returns:
        The place where bits differ, in words; None if all are equal.
    """
    classifier, size = smoothed.classifier, smoothed.microbatch
    tokens = _tokens(smoothed)
    groups = sorted(classifier.groups(), key=lambda group: -len(group[1]))
    if not thorough:
        by_count = sorted(groups, key=lambda group: group[0])
        quick = (groups[0], by_count[0], by_count[-1])
        groups = list({count: (count, views) for count, views in quick}.values())
    digits, kinds = (_digits(size), len(_NEIGHBOURS)) if thorough else (1, 1)
    slot_s = torch.arange(size, device=smoothed.device)
    for count, views in groups:
        view_g = torch.from_numpy(views).to(smoothed.device)
        expected: Tensor | None = None
        for number, quiet_s in _cases(slot_s, kinds, digits):
            image_s = torch.where(quiet_s, 0, number)
            view_s = torch.where(quiet_s, view_g[0], view_g[slot_s % len(view_g)])
            logits = classifier(tokens, image_s, view_s)[quiet_s]
            expected = logits[:1] if expected is None else expected
            same = _bits(logits).eq(_bits(expected)).all(dim=1)
            if not bool(same.all()):
                slot = int(slot_s[quiet_s][~same][0])
                return (
                    f"the logits of a view differ at slot {slot} of {size}, beside "
                    f"{_BESIDE[number]}, in sequences of {count} tokens"
                )
    return None


def passes(classifier: BaseClassifier, microbatch: int) -> int:
    """Count the passes of a thorough look."""
    return len(list(classifier.groups())) * (1 + len(_NEIGHBOURS) * 2 * _digits(microbatch))


def _digits(microbatch: int) -> int:
    """Count the binary digits of a microbatch's slot numbers."""
    return max(1, (microbatch - 1).bit_length())


def _cases(slot_s: Tensor, kinds: int, digits: int) -> Iterator[tuple[int, Tensor]]:
    """Yield what stands beside a view, by its number, and the slots in which the view stands.

    First nothing stands beside it: NaN that reached every slot would make all of them equal. Then
    each kind stands in the slots whose number has a 1, and those that have a 0, at each digit.
    """
    yield 0, slot_s >= 0
    for number in range(1, kinds + 1):
        for digit in range(digits):
            ones = (slot_s >> digit) % 2 == 1
            for half in (~ones, ones):
                if bool(half.any()):
                    yield number, half


def _tokens(smoothed: SmoothedClassifier) -> Tensor:
    """Tokens of an image, and of one neighbour of each kind after it."""
    views = smoothed.classifier.views
    scale = views.pixel_scale
    generator = torch.Generator().manual_seed(0)
    shape = (2, views.height * scale, views.width * scale, 3)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    image, other = smoothed.classifier.tokens(images.to(smoothed.device))
    noise = (torch.randn(image.shape, generator=generator) * 1e3).to(image)
    poisons = [torch.full_like(image, value) for value in (math.nan, math.inf)]
    return torch.stack([image, *poisons, noise, other])


def _bits(logits: Tensor) -> Tensor:
    """The bits of logits as integers, so that NaN equals itself and -0 is not 0; (S, L)."""
    return logits.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[logits.element_size()])
