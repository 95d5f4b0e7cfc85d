"""Weight files: strict loading, cards, and messages that say what to do."""

import fractions

import huggingface_hub
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from pytest import mark, raises
from safetensors.torch import load_file, save, save_file

from models.errors import UnknownModelError, WeightsError
from models.networks.checkpoint import read_checkpoint
from models.networks.convert import convert_checkpoint
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


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 9999999\n"
)


@mark.parametrize("suffix", [".safetensors", ".pth"])
@mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "a Git LFS pointer.*`git lfs pull`"),
        (b"\n<!DOCTYPE html>\n<html></html>", "a web page.*/resolve/"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a server's answer"),
        (b'{"weight_map": {}}', "JSON"),
        (b"", "empty"),
    ],
)
def test_what_is_no_weight_file_is_called_what_it_is(tmp_path, content, message, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    for read in (read_card, sha256_of, read_checkpoint):
        with raises(WeightsError, match=f"model{suffix}: .*{message}"):
            read(str(path))


def test_a_wrong_suffix_is_named_with_the_right_one(tiny_weights, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(tiny_weights.read_bytes())
    with raises(WeightsError, match=r"rename it to a\.safetensors"):
        read_card(str(path))
    for zipped in (True, False):
        path = tmp_path / "b.safetensors"
        torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=zipped)
        with raises(WeightsError, match=r"rename it to b\.pth"):
            read_card(str(path))


@mark.parametrize("length", range(96, 256, 8))
def test_no_length_of_a_header_is_taken_for_another_format(tmp_path, length):
    """The file begins with it, as other formats begin with their names."""
    path = tmp_path / "a.safetensors"
    for more in range(2):
        save_file({"x": torch.zeros(1)}, path, metadata={"note": "-" * (length - 88 + 256 * more)})
        assert read_card(str(path)) == WeightsCard()


def test_weights_without_a_classifier_are_told_how_to_get_one(tiny_weights, tmp_path):
    state = {key: v for key, v in load_file(tiny_weights).items() if not key.startswith("head.")}
    save_file(state, tmp_path / "a.safetensors")
    with raises(
        WeightsError, match=r"no classifier.*train --init .*a.safetensors --model test_vit"
    ):
        load_network(TINY, TINY_CLASSES, str(tmp_path / "a.safetensors"))


def test_transformers_fine_tuned_after_mae_load_as_timm_loads_them(tmp_path):
    path = str(tmp_path / "mae.safetensors")
    theirs = timm.create_model(TINY, num_classes=TINY_CLASSES, global_pool="avg").eval()
    assert "fc_norm.weight" in theirs.state_dict()
    save_file(theirs.state_dict(), path)
    ours, pixels = load_network(TINY, TINY_CLASSES, path), torch.randn(2, 3, 160, 160)
    assert torch.equal(ours(pixels), theirs(pixels))
    check_weights(TINY, TINY_CLASSES, path)
    _, card = convert_checkpoint(path, TINY, preset="model")
    assert card.num_classes == TINY_CLASSES
