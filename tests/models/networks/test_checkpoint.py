"""Files that are torn, hostile, or need packages: nothing runs unless it is asked to."""

import pickle
import re
import sys
import types
from argparse import Namespace

import pytest
import timm
import torch
from safetensors.torch import save_file

from models.errors import WeightsError
from models.networks.checkpoint import read_checkpoint, read_state, state_key
from models.networks.convert import convert_checkpoint
from tests.models.networks.released import network_state, released_state, save_released

TINY_CNN = "test_resnet"


class Schedule:
    """Stands for a learning-rate schedule: an object that only unpickling can make."""


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, victim: str) -> None:
        self.victim = victim

    def __reduce__(self):
        return open, (self.victim, "w")


@pytest.fixture(scope="module")
def cnn():
    return network_state(TINY_CNN, 10)


def refused(path, **options) -> str:
    with pytest.raises(WeightsError) as caught:
        convert_checkpoint(str(path), TINY_CNN, **options)
    return str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated(cnn, tmp_path, share, zipped):
    path = tmp_path / "a.pt"
    torch.save({"model": cnn}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    for trusted in (False, True):
        message = refused(path, trust_pickle=trusted)
        assert "truncated" in message
        assert str(path) in message


def test_nothing_runs_without_trust(cnn, tmp_path):
    victim = tmp_path / "victim"
    state = released_state(cnn, vit=False)
    path = save_released(tmp_path / "a.pt", state, schedule=Hostile(str(victim)))
    message = refused(path)
    assert not victim.exists()
    for part in ("io.open", "runs whatever code", "Nothing was run", "--trust-pickle"):
        assert part in message
    convert_checkpoint(str(path), TINY_CNN, trust_pickle=True)
    assert victim.exists()  # which is what trust means


def test_released_checkpoints_need_trust(cnn, tmp_path):
    path = save_released(tmp_path / "a.pt", released_state(cnn, vit=False), schedule=Schedule())
    assert "Schedule" in refused(path)
    state, _ = convert_checkpoint(str(path), TINY_CNN, trust_pickle=True)
    assert set(state) == set(cnn)


def test_missing_dill_is_named(cnn, tmp_path, monkeypatch):
    module = types.ModuleType("dill")
    inner = types.ModuleType("dill._dill")

    class Function:
        pass

    Function.__module__, Function.__qualname__ = "dill._dill", "Function"
    inner.Function = Function
    monkeypatch.setitem(sys.modules, "dill", module)
    monkeypatch.setitem(sys.modules, "dill._dill", inner)
    path = save_released(tmp_path / "a.pt", released_state(cnn, vit=False), schedule=Function())
    monkeypatch.delitem(sys.modules, "dill._dill")
    monkeypatch.delitem(sys.modules, "dill")
    monkeypatch.setattr("models.networks.checkpoint._pickle_module", lambda: pickle)
    monkeypatch.setitem(sys.modules, "dill", None)
    assert "dill" in refused(path)
    with pytest.raises(WeightsError, match="pip install dill"):
        read_checkpoint(str(path), trust_pickle=True)


def test_missing_class_of_a_trusted_pickle(cnn, tmp_path, monkeypatch):
    path = save_released(tmp_path / "a.pt", released_state(cnn, vit=False), schedule=Schedule())
    monkeypatch.delattr(sys.modules[__name__], "Schedule")
    assert "cannot be unpickled here" in refused(path, trust_pickle=True)


def wrapped(state: dict, prefix: str, **beside: object) -> dict:
    return {**beside, **{prefix + key: value for key, value in state.items()}}


def test_weights_are_those_that_timm_takes(cnn, tmp_path):
    """The moving average before the raw weights, and without wrappers in either order."""
    path, raw = tmp_path / "a.pth", network_state(TINY_CNN, 10, seed=1)
    for content, key in (
        (
            {"state_dict": raw, "state_dict_ema": cnn, "args": Namespace()},
            "state_dict_ema",
        ),
        ({"model": raw, "model_ema": cnn}, "model_ema"),
        ({"model": cnn, "state_dict": cnn}, "state_dict"),
        (wrapped(cnn, "module.", n_averaged=torch.tensor(5)), None),
        (wrapped(cnn, "_orig_mod."), None),
        ({"model": wrapped(cnn, "module._orig_mod.")}, "model"),
        ({"model": wrapped(cnn, "_orig_mod.module.")}, "model"),
    ):
        torch.save(content, path)
        state, theirs = read_state(str(path)), timm.models.load_state_dict(path)
        assert state.keys() == cnn.keys() == theirs.keys() - {"n_averaged"}
        assert all(torch.equal(state[name], theirs[name]) for name in cnn)
        assert state_key(read_checkpoint(str(path))) == key
        _, card = convert_checkpoint(str(path), TINY_CNN, preset="imagenet")
        averaged = {"weights": key} if key and "ema" in key else {}
        assert card.recipe["converted_from"].items() >= averaged.items()
        assert ("weights" in card.recipe["converted_from"]) == bool(averaged)


def test_wrapped_safetensors_load_and_convert(cnn, tmp_path):
    path = str(tmp_path / "a.safetensors")
    save_file(wrapped(cnn, "module."), path)
    assert read_state(path).keys() == cnn.keys()
    assert convert_checkpoint(path, TINY_CNN, preset="imagenet")[0].keys() == cnn.keys()


def test_what_torchscript_holds_is_told_and_can_be_saved_as_the_message_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = torch.nn.Linear(2, 2)
    torch.jit.save(torch.jit.script(network), "a.pt")
    for trusted in (False, True):
        with pytest.raises(WeightsError, match="TorchScript archive, whose program") as caught:
            read_checkpoint("a.pt", trust_pickle=trusted)
    (remedy,) = re.findall(r"torch\.save\(.*\)$", str(caught.value))
    exec(remedy)
    assert torch.equal(read_state("weights.pth")["weight"], network.weight)


def test_a_whole_network_is_taken_from_a_trusted_pickle(tmp_path):
    network = timm.create_model(TINY_CNN, num_classes=10)
    torch.save({"model": network}, tmp_path / "a.pth")
    assert "--trust-pickle" in refused(tmp_path / "a.pth", preset="imagenet")
    state, _ = convert_checkpoint(
        str(tmp_path / "a.pth"), TINY_CNN, preset="imagenet", trust_pickle=True
    )
    assert state.keys() == network.state_dict().keys()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_that_are_not_finite_are_refused(cnn, tmp_path, value, suffix):
    state = {key: tensor.clone() for key, tensor in cnn.items()}
    state["fc.bias"][3] = value
    path = tmp_path / f"a{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    with pytest.raises(WeightsError, match=r"1 of \d+ tensors are not finite.*: fc.bias;"):
        read_state(str(path))
    assert "not finite" in refused(path, preset="imagenet")


def test_the_largest_numbers_are_finite(tmp_path):
    state = {
        str(dtype): torch.full((2, 3), torch.finfo(dtype).max, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    }
    save_file(state, tmp_path / "a.safetensors")
    assert read_state(str(tmp_path / "a.safetensors")).keys() == state.keys()
