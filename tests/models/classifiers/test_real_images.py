"""Real weights on real images, to the last ablation, against timm's own dense forward.

The bundled CIFAR-10 weights and images run everywhere; DeiT-Tiny on ImageNet where the real data
lies beside the repository.
"""

import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from models.classifiers.build import base_classifier
from models.classifiers.smoothed import SmoothedClassifier
from models.networks.weights import read_card
from models.networks.zoo import load_network
from models.preprocess import PRESETS
from models.views.ablations import Ablation
from pipeline.sources.decode import decode
from tests.conftest import REPOSITORY, lively_network, random_images, tiny_ablation, tiny_model
from tests.models.classifiers.dense_reference import dense_logits, visible_mask

EXAMPLE = REPOSITORY / "examples/cifar10"
# Labels may differ where the two best logits are nearer than this: there float32 decides nothing.
NEAR_TIE = 1e-4


def compare(network, images, preprocess, ablation, tokens):
    """Hold every ablation against the reference: (near-ties, labels that occurred)."""
    classifier = base_classifier(network, ablation, preprocess, tokens).eval()
    views = len(ablation)
    size, stride = (length * ablation.pixel_scale for length in (ablation.size, ablation.stride))
    side = preprocess.model_px[0]
    shown = np.stack(
        [visible_mask(ablation.kind, size, stride, side, view) for view in range(views)]
    )
    near_ties, labels = 0, set()
    with torch.inference_mode():
        prepared = classifier.tokens(torch.from_numpy(images))
        for number, image in enumerate(images):
            ours = torch.empty((views, network.num_classes))
            for _, group in classifier.groups():
                which = torch.full((len(group),), number)
                ours[group] = classifier(prepared, which, torch.from_numpy(group))
            dense = dense_logits(
                network,
                image,
                shown,
                preprocess.mean,
                preprocess.std,
                token=16 if tokens == "drop" else None,
            )
            assert (ours - dense).abs().max() < 1e-3
            top = dense.topk(2).values
            clear = top[:, 0] - top[:, 1] >= NEAR_TIE
            near_ties += int((~clear).sum())
            assert torch.equal(ours.argmax(1)[clear], dense.argmax(1)[clear])
            labels |= set(ours.argmax(1).tolist())
    return near_ties, labels


@pytest.mark.parametrize("tokens", ["drop", "black"])
def test_bundled_weights_on_bundled_images(tokens):
    weights = str(EXAMPLE / "smoothed_deit_tiny.safetensors")
    card = read_card(weights)
    network = load_network(card.model, card.num_classes, weights, card.preprocess.model_px)
    with tarfile.open(EXAMPLE / "data/cifar10-test-000.tar") as archive:
        names = [name for name in archive.getnames() if name.endswith(".png")][:2]
        images = [decode(archive.extractfile(name).read()) for name in names]
    pixels = np.stack([card.preprocess(image) for image in images])
    scale = card.preprocess.pixel_scale
    ablation = Ablation(kind="column", size=4, stride=3, height=32, width=32, pixel_scale=scale)
    near_ties, labels = compare(network, pixels, card.preprocess, ablation, tokens)
    assert near_ties <= 1
    assert len(labels) >= 3


@pytest.mark.shared_data
@pytest.mark.parametrize("tokens", ["drop", "black"])
def test_deit_on_imagenet(tokens, shared_data, record_property):
    preprocess = PRESETS["imagenet"]
    file = pq.ParquetFile(shared_data / "imagenet_val_subset.parquet")
    cells = next(file.iter_batches(6, columns=["image"]))["image"]
    images = np.stack([preprocess(decode(cell.as_py())) for cell in cells])
    weights = shared_data / "deit_tiny_patch16_224.safetensors"
    network = load_network("deit_tiny_patch16_224", 1000, str(weights))
    near_ties, labels = 0, set()
    for kind, size, stride in [
        ("column", 19, 16),
        ("column", 37, 50),  # a stride that does not divide the width
        ("row", 19, 32),
        ("block", 75, 75),
    ]:
        ablation = Ablation(kind=kind, size=size, stride=stride, height=224, width=224)
        ties, seen = compare(network, images, preprocess, ablation, tokens)
        near_ties, labels = near_ties + ties, labels | seen
    record_property("near_ties", near_ties)
    record_property("distinct_labels", len(labels))
    assert near_ties <= 2
    assert len(labels) >= 50


def test_bfloat16_flips_only_near_ties(record_property):
    """Every vote that bfloat16 changes had a float32 gap below a twentieth of the logits' range."""
    images, ablation = random_images(4), tiny_ablation("column", 24, 40)
    single = lively_network()
    votes, logits = {}, []
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model(lively_network().to(dtype), ablation)
        votes[dtype] = SmoothedClassifier(model, torch.device("cpu"), 16)(images).votes_bv
    model = tiny_model(single, ablation)
    with torch.inference_mode():
        prepared = model.tokens(torch.from_numpy(images))
        for number in range(len(images)):
            for view in range(len(ablation)):
                logits.append(model(prepared, torch.tensor([number]), torch.tensor([view]))[0])
    stacked = torch.stack(logits)
    top = stacked.topk(2).values
    gaps = (top[:, 0] - top[:, 1]).reshape(len(images), -1).numpy()
    flipped = votes[torch.float32] != votes[torch.bfloat16]
    record_property("agreement", float(1 - flipped.mean()))
    bound = float(stacked.max() - stacked.min()) / 20
    assert (gaps[flipped] < bound).all()
    assert flipped.mean() < 0.2
    assert (gaps > bound).any()  # the bound excludes something
