"""``patchcert convert``: from a released file to weights that a run takes as they are."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file

from jobs.cli import main
from models.networks.weights import read_card
from models.networks.zoo import load_network
from pipeline.config import VotesConfig
from pipeline.runs.resolve import resolve_defense
from tests.models.networks.released import network_state, released_state, save_released

CNN = "test_resnet"


class Schedule:
    """Only unpickling can make one."""


@pytest.fixture(scope="module")
def network():
    return network_state(CNN, 10)


@pytest.fixture
def released(network, tmp_path):
    state = released_state(network, vit=False, preset="cifar10")
    return save_released(tmp_path / "resnet18_k19.pt", state, schedule=Schedule())


def test_converted_weights_say_all_that_a_run_needs(released, network, tmp_path, capsys):
    out = tmp_path / "new" / "out.safetensors"
    digest = hashlib.sha256(released.read_bytes()).hexdigest()
    flags = ["--model", CNN, "--trust-pickle", "--size", "4", "--tokens", "black"]
    assert main(["convert", str(released), str(out), *flags]) == 0
    assert f"{out}: {len(network)} tensors of {CNN}, 10 classes" in capsys.readouterr().out
    assert hashlib.sha256(released.read_bytes()).hexdigest() == digest
    stored = load_file(out)
    assert all(torch.equal(stored[key], value) for key, value in network.items())
    assert set(stored) == set(network)
    load_network(CNN, 10, str(out))
    card = read_card(str(out))
    assert card.tokens == "black"
    assert card.recipe["converted_from"] == {
        "file": "resnet18_k19.pt",
        "sha256": digest,
        "epoch": 29,
        "nat_prec1": 52.25,
    }
    defense = resolve_defense(VotesConfig(data="x", weights=str(out)))
    assert (defense.network.name, defense.network.num_classes, defense.model_input.pixel_scale) == (
        CNN,
        10,
        7,
    )
    assert (defense.views.size, defense.views.stride, defense.views.width) == (4, 1, 32)


@pytest.mark.parametrize(
    ("out", "flags", "message"),
    [
        ("out.safetensors", [], "--trust-pickle"),
        ("out.safetensors", ["--trust-pickle", "--num-classes", "7"], "of another shape: fc.bias"),
        ("out.safetensors", ["--trust-pickle", "--model", "resnet18"], "missing: "),
        ("out.safetensors", ["--trust-pickle", "--model", "resnet_18"], "did you mean"),
        ("out.safetensors", ["--trust-pickle", "--size", "33"], "size=33"),
        ("out.safetensors", ["--size", "0"], "--size 0"),
        ("out.pt", ["--trust-pickle"], "end the name in .safetensors"),
        ("there.safetensors", ["--trust-pickle"], "exists already"),
    ],
)
def test_mistakes_get_one_message_code_2_and_no_file(
    released, tmp_path, capsys, out, flags, message
):
    (tmp_path / "there.safetensors").write_bytes(b"kept")
    before = sorted(tmp_path.iterdir())
    model = [] if "--model" in flags else ["--model", CNN]
    assert main(["convert", str(released), str(tmp_path / out), *model, *flags]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.safetensors").read_bytes() == b"kept"


def test_a_choice_that_was_not_asked_for_is_said(released, network, tmp_path, capsys):
    out = tmp_path / "a.safetensors"
    assert main(["convert", str(released), str(out), "--model", CNN, "--trust-pickle"]) == 0
    assert "tokens black, as the released weights" in capsys.readouterr().out
    assert resolve_defense(VotesConfig(data="x", weights=str(out))).tokens == "black"
    averaged = tmp_path / "ema.pth"
    torch.save({"model": network, "model_ema": network}, averaged)
    given = [str(averaged), str(tmp_path / "b.safetensors"), "--model", CNN]
    assert main(["convert", *given, "--preprocess", "imagenet"]) == 0
    said = capsys.readouterr().out
    assert "moving average, model_ema" in said
    assert "token mode is unknown" in said
