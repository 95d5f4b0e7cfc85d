"""Weight files: strict loading, cards, and messages that say what to do."""

import fractions

import huggingface_hub
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from pytest import mark, raises
from safetensors.torch import load_file, save, save_file

from models.errors import UnknownModelError, WeightsError
from models.networks.weights import WeightsCard, read_card, sha256_of
from models.networks.zoo import (
    check_weights,
    default_num_classes,
    default_preprocess,
    fetch_hub_weights,
    load_network,
)
from models.preprocess import PRESETS, Preprocess
from tests.conftest import TINY, TINY_CLASSES
from tests.models.networks.released import released_state, save_released


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


def test_equal_weights_and_cards_are_equal_bytes():
    # What identifies a run is the digest of the file, not of what is in it.
    metadata = WeightsCard(model="vit", recipe={"epochs": 4, "seed": 1}).to_metadata()
    state = {name: torch.arange(3.0) for name in "cab"}
    assert len({save(state, metadata=dict(metadata)) for _ in range(16)}) == 1


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
        ("weights.npz", b"x", "end in .safetensors"),
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


@mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@mark.parametrize("key", [None, "state_dict", "model"])
def test_state_dicts_of_torch_save(tiny_weights, tmp_path, suffix, key):
    stored = load_file(tiny_weights)
    path = tmp_path / f"tiny{suffix}"
    torch.save({key: stored, "epoch": 3} if key else stored, path)
    assert read_card(str(path)) == WeightsCard()
    network = load_network(TINY, TINY_CLASSES, str(path))
    assert all(torch.equal(stored[name], value) for name, value in network.state_dict().items())


def test_a_pickle_is_never_opened_to_load_weights(tiny_weights, tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"state_dict": load_file(tiny_weights), "lr": fractions.Fraction(1, 3)}, path)
    with raises(WeightsError, match=r"fractions\.Fraction.*patchcert convert .*--trust-pickle"):
        load_network(TINY, TINY_CLASSES, str(path))


def test_wrapped_keys_point_to_convert(tiny_weights, tmp_path):
    path = save_released(tmp_path / "w.pt", released_state(load_file(tiny_weights)))
    with raises(WeightsError, match=r"unexpected: attacker\..*patchcert convert"):
        load_network(TINY, TINY_CLASSES, str(path))


def test_hub_weights_are_fetched_once_by_name(monkeypatch, tmp_path):
    asked = []

    def download(repository, name, revision=None):
        asked.append((repository, name, revision))
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for name in ("timm:deit_tiny_patch16_224", "timm:deit_tiny_patch16_224.fb_in1k"):
        assert fetch_hub_weights(name) == tmp_path / "model.safetensors"
    assert set(asked) == {("timm/deit_tiny_patch16_224.fb_in1k", "model.safetensors", None)}


@mark.parametrize(
    ("error", "message"),
    [
        (LocalEntryNotFoundError("no network"), "cannot be reached.*give the file"),
        (EntryNotFoundError("404"), r"has no model\.safetensors"),
        (ConnectionError(""), r"cannot be reached.*\(ConnectionError\)"),
    ],
)
def test_hub_weights_that_cannot_be_had(monkeypatch, error, message):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with raises(WeightsError, match=message):
        fetch_hub_weights("timm:deit_tiny_patch16_224")


def test_hub_names_that_timm_does_not_have():
    with raises(UnknownModelError, match=r"timm publishes: deit_tiny_patch16_224\.fb_in1k"):
        fetch_hub_weights("timm:deit_tiny_patch16_224.fb_in22k")
    with raises(UnknownModelError, match="did you mean deit_tiny_patch16_224"):
        fetch_hub_weights("timm:deit_tinny_patch16_224")
    with raises(WeightsError, match="publishes none"):
        fetch_hub_weights("timm:vit_base_patch16_18x2_224")


def test_weights_are_checked_without_a_network_in_memory(tiny_weights, tmp_path):
    network = check_weights(TINY, TINY_CLASSES, str(tiny_weights), (160, 160))
    assert {value.device.type for value in network.parameters()} == {"meta"}
    with raises(WeightsError, match=f"do not fit {TINY} with 10 classes: 2 of another shape"):
        check_weights(TINY, 10, str(tiny_weights))
    with raises(UnknownModelError, match="did you mean"):
        check_weights("deit_tinny_patch16_224", 10, str(tiny_weights))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(tiny_weights.read_bytes()[:1000])
    with raises(WeightsError, match="not a readable safetensors file"):
        check_weights(TINY, TINY_CLASSES, str(cut))
    pickled = tmp_path / "pickled.pt"
    pickled.write_bytes(b"no pickle")
    with raises(WeightsError, match="no PyTorch checkpoint"):
        check_weights(TINY, TINY_CLASSES, str(pickled))
