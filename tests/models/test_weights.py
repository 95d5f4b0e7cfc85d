"""Weight files: strict loading, cards, and messages that say what to do."""

import timm
import torch
from pytest import mark, raises
from safetensors.torch import load_file, save_file

from models.preprocess import PRESETS, Preprocess
from models.weights import WeightsCard, WeightsError, read_card, sha256_of
from models.zoo import (
    UnknownModelError,
    default_num_classes,
    default_preprocess,
    load_network,
)
from tests.conftest import TINY, TINY_CLASSES


def test_card_round_trip(tmp_path):
    card = WeightsCard(
        model="vit",
        num_classes=3,
        classes=("a", "b", "c"),
        preprocess=PRESETS["cifar10"],
        ablation={"kind": "column", "size": 4, "stride": 1},
        tokens="drop",
        recipe={"epochs": 4},
    )
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata=card.to_metadata())
    assert read_card(str(path)) == card


def test_file_without_a_card_says_nothing(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    assert read_card(str(path)) == WeightsCard()


def test_malformed_card_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"patchcert": "[]"})
    with raises(WeightsError, match="malformed"):
        read_card(str(path))


def test_load_gives_exactly_the_stored_weights(tiny_weights):
    network = load_network(TINY, TINY_CLASSES, str(tiny_weights))
    stored = load_file(tiny_weights)
    assert all(torch.equal(stored[key], value) for key, value in network.state_dict().items())
    assert not network.training


def test_float16_weights_load_as_float32(tiny_weights, tmp_path):
    half = {key: value.half() for key, value in load_file(tiny_weights).items()}
    path = tmp_path / "half.safetensors"
    save_file(half, path)
    network = load_network(TINY, TINY_CLASSES, str(path))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_another_number_of_classes_is_an_error_never_a_random_head(tiny_weights):
    with raises(WeightsError, match=r"head\.bias is \(7,\), the network's is \(10,\)"):
        load_network(TINY, 10, str(tiny_weights))


def test_mismatched_keys_are_listed_at_most_ten_of_each(tiny_weights, tmp_path):
    state = {f"alien.{i}": torch.zeros(1) for i in range(12)}
    path = tmp_path / "other.safetensors"
    save_file(state, path)
    with raises(WeightsError) as caught:
        load_network(TINY, TINY_CLASSES, str(path))
    message = str(caught.value)
    assert "12 unexpected: alien.0" in message
    assert message.count("alien.") == 10
    assert "missing: " in message


@mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.safetensors", None, "no such file"),
        ("pickle.pt", b"x", "only .safetensors"),
        ("torn.safetensors", b"garbage", "not a readable safetensors file"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with raises(WeightsError, match=message):
        read_card(str(path))


def test_digest_is_of_the_bytes(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"abc")
    assert sha256_of(str(path)).startswith("ba7816bf")


def test_unknown_model_suggests_the_nearest():
    with raises(UnknownModelError, match="deit_tiny_patch16_224"):
        load_network("deit_tinny_patch16_224", 10, "unused.safetensors")


def test_defaults_are_timms():
    assert default_num_classes("deit_tiny_patch16_224") == 1000
    config = timm.get_pretrained_cfg("deit_tiny_patch16_224")
    assert default_preprocess("deit_tiny_patch16_224") == Preprocess(
        resize=248,
        crop=224,
        interpolation="bicubic",
        mean=config.mean,
        std=config.std,
    )
