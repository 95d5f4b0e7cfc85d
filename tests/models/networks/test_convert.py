"""Released checkpoints, built here with their exact key layout, become plain timm networks."""

import hashlib

import pytest
import torch

from models.errors import WeightsError
from models.networks.convert import convert_checkpoint
from models.preprocess import PRESETS
from tests.models.networks.released import network_state, released_state, save_released

VIT, CNN, TINY_CNN = "deit_tiny_patch16_224", "resnet18", "test_resnet"


@pytest.fixture(scope="module")
def vit():
    return network_state(VIT, 1000)


@pytest.fixture(scope="module")
def cnn():
    return network_state(TINY_CNN, 10)


def refused(path, model=TINY_CNN, **options) -> str:
    with pytest.raises(WeightsError) as caught:
        convert_checkpoint(str(path), model, **options)
    return str(caught.value)


@pytest.mark.parametrize("older", [False, True])
def test_vit_keeps_exactly_the_networks_tensors(vit, tmp_path, older):
    path = save_released(tmp_path / "deit_tiny_k19.pt", released_state(vit, older=older))
    before = path.read_bytes()
    state, card = convert_checkpoint(
        str(path), VIT, ablation={"kind": "column", "size": 19}, tokens="black"
    )
    assert path.read_bytes() == before
    assert set(state) == set(vit)
    assert all(torch.equal(state[key], vit[key]) for key in vit)
    assert (card.model, card.num_classes, card.tokens) == (VIT, 1000, "black")
    # Equal to the preset to the last digit, so that what depends on the preset holds here too.
    assert card.preprocess == PRESETS["imagenet"]
    assert card.ablation == {"kind": "column", "size": 19}
    source = card.recipe["converted_from"]
    assert source.pop("sha256") == hashlib.sha256(before).hexdigest()
    assert source == {"file": "deit_tiny_k19.pt", "epoch": 29, "nat_prec1": 52.25}


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("older", [False, True])
def test_cnn(cnn, tmp_path, older, prefix):
    state = released_state(cnn, vit=False, older=older, prefix=prefix)
    converted, card = convert_checkpoint(
        str(save_released(tmp_path / "resnet18_k19.pt", state)), TINY_CNN
    )
    assert set(converted) == set(cnn)
    assert all(torch.equal(converted[key], cnn[key]) for key in cnn)
    assert card.num_classes == 10


def test_batch_norm_counters_are_the_networks_too(tmp_path):
    network = network_state(CNN, 10)
    path = save_released(tmp_path / "r.pt", released_state(network, vit=False))
    converted, _ = convert_checkpoint(str(path), CNN)
    assert converted["bn1.num_batches_tracked"].dtype == torch.int64


def test_cifar10(tmp_path):
    network = network_state(VIT, 10)
    path = save_released(tmp_path / "cifar10_vit-T.pt", released_state(network, preset="cifar10"))
    _, card = convert_checkpoint(str(path), VIT)
    assert card.num_classes == 10
    assert card.preprocess == PRESETS["cifar10"]


def test_plain_state_dicts_need_a_preset(cnn, tmp_path):
    for content in (cnn, {"state_dict": cnn}, {"model": cnn}):
        torch.save(content, tmp_path / "plain.pth")
        assert "no normalizer" in refused(tmp_path / "plain.pth")
        state, card = convert_checkpoint(str(tmp_path / "plain.pth"), TINY_CNN, preset="imagenet")
        assert set(state) == set(cnn)
        assert card.preprocess == PRESETS["imagenet"]


def test_own_normalization_wins_over_the_preset(cnn, tmp_path):
    state = released_state(cnn, vit=False)
    state["module.normalizer.normalizer.new_mean"] = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    path = save_released(tmp_path / "a.pt", state)
    assert "--preprocess" in refused(path)
    _, card = convert_checkpoint(str(path), TINY_CNN, preset="imagenet")
    assert card.preprocess.mean == (0.5, 0.4, 0.3)
    assert card.preprocess.resize == 256


def test_what_does_not_fit_is_listed_at_most_ten_of_each(vit, cnn, tmp_path):
    path = save_released(tmp_path / "v.pt", released_state(vit))
    message = refused(path, TINY_CNN)
    assert "missing: " in message
    assert message.count("blocks.") <= 10
    assert "--model" in message
    state = released_state(cnn, vit=False)
    state["module.normalizer.mystery"] = state["module.alien"] = torch.zeros(1)
    message = refused(save_released(tmp_path / "u.pt", state))
    assert "2 unexpected: alien, normalizer.mystery" in message


def test_wrong_head(cnn, vit, tmp_path):
    path = save_released(tmp_path / "a.pt", released_state(cnn, vit=False))
    message = refused(path, num_classes=1000)
    assert "fc.bias is (10,), the network's is (1000,)" in message
    headless = {key: value for key, value in vit.items() if not key.startswith("head.")}
    path = save_released(tmp_path / "b.pt", released_state(headless))
    assert "2 missing: head.bias, head.weight" in refused(path, VIT)


def test_two_networks_in_one_file(cnn, tmp_path):
    state = released_state(cnn, vit=False)
    state["module.attacker.model.fc.bias"] = torch.ones(10)
    assert "two networks" in refused(save_released(tmp_path / "a.pt", state))


def test_impossible_ablation_or_input(vit, tmp_path):
    path = save_released(tmp_path / "a.pt", released_state(vit))
    message = refused(path, VIT, ablation={"kind": "column", "size": 300})
    assert "size=300" in message
    path = save_released(tmp_path / "b.pt", released_state(network_state("test_vit", 1000)))
    assert "test_vit takes 160x160 px, the preprocessing gives 224x224" in refused(path, "test_vit")


def test_no_state_dict(tmp_path):
    for content, part in (([1], "holds list"), ({}, "holds dict"), ({"a": 1}, "no tensors: a")):
        torch.save(content, tmp_path / "a.pt")
        assert part in refused(tmp_path / "a.pt")
    assert "no such file" in refused(tmp_path / "absent.pt")


def test_the_released_layout_means_black_tokens(cnn, tmp_path):
    path = str(save_released(tmp_path / "a.pt", released_state(cnn, vit=False)))
    assert convert_checkpoint(path, TINY_CNN)[1].tokens == "black"
    assert convert_checkpoint(path, TINY_CNN, tokens="drop")[1].tokens == "drop"
    torch.save(cnn, tmp_path / "plain.pth")
    plain = convert_checkpoint(str(tmp_path / "plain.pth"), TINY_CNN, preset="imagenet")[1]
    assert plain.tokens is None


def test_a_normalizer_of_0_to_255_is_refused(cnn, tmp_path):
    state = released_state(cnn, vit=False)
    state["module.normalizer.normalizer.new_mean"] *= 255
    message = refused(save_released(tmp_path / "a.pt", state), preset="imagenet")
    assert "divided by 255: mean 0.485 0.456 0.406" in message
