import numpy as np
import pytest
import torch
from PIL import Image

from models.classifiers.build import base_classifier
from models.classifiers.smoothed import SmoothedClassifier
from models.views.ablations import Ablation
from pipeline.training.forward import AblationLogits
from tests.conftest import lively_network
from tests.pipeline.training.toy import PREPROCESS, colours

ABLATION = Ablation(kind="column", size=4, stride=1, height=20, width=20, pixel_scale=8)
IMAGES = colours(5)


@pytest.fixture(params=["drop", "black"])
def forward(request):
    return AblationLogits(lively_network(), ABLATION, PREPROCESS, request.param)


def test_training_votes_as_the_evaluation_does(forward):
    """The same network in both: every view of every image, drawn in one call and voted on."""
    mode = "drop" if hasattr(forward.classifier, "kept") else "black"
    views = torch.arange(len(ABLATION)).expand(5, -1)
    forward.train()
    logits = forward(torch.from_numpy(IMAGES), views).detach()
    classifier = base_classifier(lively_network(), ABLATION, PREPROCESS, mode).eval()
    pixels = np.stack([PREPROCESS(Image.fromarray(image)) for image in IMAGES])
    ballot = SmoothedClassifier(classifier, torch.device("cpu"), 16)(pixels)
    np.testing.assert_array_equal(logits.argmax(-1).numpy(), ballot.votes_bv)
    assert len(np.unique(ballot.votes_bv)) > 1
    assert {count for count, _ in classifier.groups()} == ({20, 30} if mode == "drop" else {0})
    tokens = classifier.tokens(torch.from_numpy(pixels))
    for view in range(len(ABLATION)):
        alone = classifier(tokens, torch.arange(5), torch.full((5,), view))
        torch.testing.assert_close(logits[:, view], alone.detach(), rtol=1e-4, atol=1e-4)


def test_tokens_are_those_of_the_enlarged_images(forward):
    enlarged = IMAGES.repeat(PREPROCESS.pixel_scale, 1).repeat(PREPROCESS.pixel_scale, 2)
    expected = forward.classifier.tokens(torch.from_numpy(enlarged))
    assert torch.equal(forward.tokens(torch.from_numpy(IMAGES)), expected)


def test_whole_images_too(forward):
    logits = forward.whole(torch.from_numpy(IMAGES)).detach()
    mode = "drop" if hasattr(forward.classifier, "kept") else "black"
    classifier = base_classifier(lively_network(), ABLATION, PREPROCESS, mode).eval()
    pixels = np.stack([PREPROCESS(Image.fromarray(image)) for image in IMAGES])
    ballot = SmoothedClassifier(classifier, torch.device("cpu"), 16)(pixels)
    np.testing.assert_array_equal(logits.argmax(-1).numpy(), ballot.plain_b)


def test_logits_lie_where_their_views_were_asked_for(forward):
    views = torch.tensor([[3, 0, 7], [1, 1, 2], [9, 4, 0], [0, 2, 4], [5, 6, 8]])
    every = forward(torch.from_numpy(IMAGES), torch.arange(len(ABLATION)).expand(5, -1))
    some = forward(torch.from_numpy(IMAGES), views)
    picked = torch.gather(every, 1, views[..., None].expand(-1, -1, every.shape[-1]))
    torch.testing.assert_close(some, picked, rtol=1e-4, atol=1e-4)
