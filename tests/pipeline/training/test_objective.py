import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional

from pipeline.training.objective import followed, loss_of, mixed, shortfall_of, target_of
from pipeline.training.optimizer import share_of_peak


def test_loss_is_torchs_smoothed_cross_entropy_over_all_ablations():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    expected = functional.cross_entropy(
        logits.flatten(0, 1), labels.repeat_interleave(3), label_smoothing=0.1
    )
    torch.testing.assert_close(loss_of(logits, target_of(labels, 5, 0.1)), expected)


def test_shortfall_is_what_the_mean_ballot_lacks_of_the_lead():
    """Two views a class: votes 2:0, 1:1 and 0:2 lead by 1, 0 and -1."""
    sure = 1000 * torch.eye(3)
    logits = torch.stack([sure[[0, 0]], sure[[0, 1]], sure[[1, 1]]])
    truth = torch.zeros(3, dtype=torch.int64)
    one = [float(shortfall_of(logits[i : i + 1], truth[:1], 0.25)) for i in range(3)]
    assert one == pytest.approx([0, 0.25, 1.25])
    assert float(shortfall_of(logits, truth, 0.25)) == pytest.approx(0.5)


def test_shortfall_moves_only_images_that_lack_something():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3, requires_grad=True)
    sure = torch.tensor([100.0, 0.0, 0.0])
    shifted = torch.stack([logits[0] + sure, logits[1]])
    shortfall_of(shifted, torch.tensor([0, 0]), 0.9).backward()
    assert not logits.grad[0].any()
    # Of the image that lacks, more of the true class helps in every view.
    assert (logits.grad[1, :, 0] < 0).all()


def test_targets_are_distributions_and_follow_the_teacher():
    target = target_of(torch.tensor([1, 0]), 4, 0.2)
    teacher = torch.tensor([[0.0, 0.0, 0.0, 100.0], [0.0, 0.0, 0.0, 0.0]])
    blend = followed(target, teacher, 0.5)
    torch.testing.assert_close(blend.sum(1), torch.ones(2))
    torch.testing.assert_close(blend[0], torch.tensor([0.025, 0.425, 0.025, 0.525]))
    torch.testing.assert_close(followed(target, teacher, 0.0), target)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_blends_images_and_labels_alike(kind):
    """Images that are their class's one-hot colour: the mean colour is the target."""
    torch.manual_seed(1)
    labels = torch.tensor([0, 1, 2, 1])
    images = functional.one_hot(labels, 3)[:, None, None].expand(-1, 8, 8, -1) * 255
    blended, target = mixed(kind, 0.8, images.to(torch.uint8), labels, 3)
    torch.testing.assert_close(blended.mean((1, 2)) / 255, target.float(), atol=1e-5, rtol=0)
    assert not torch.equal(target.argmax(1), labels) or target.max() < 1
    unmixed, same = mixed("none", 0.8, images, labels, 3)
    assert unmixed is images
    assert same is labels


def test_schedules():
    cosine = [share_of_peak(step, 110, 10, "cosine") for step in range(110)]
    assert cosine[:2] == [0.1, 0.2]
    assert cosine[10] == 1.0
    assert math.isclose(cosine[60], 0.5)
    assert 0 < cosine[-1] < 0.001
    assert all(later < earlier for earlier, later in pairwise(cosine[10:]))
    steps = [share_of_peak(step, 30, 0, "step") for step in range(30)]
    assert [steps[at] for at in (0, 9, 10, 19, 20, 29)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert share_of_peak(29, 30, 5, "constant") == 1.0
