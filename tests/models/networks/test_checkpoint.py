"""Files that are torn, hostile, or need packages: nothing runs unless it is asked to."""

import pickle
import sys
import types

import pytest
import torch

from models.errors import WeightsError
from models.networks.checkpoint import read_checkpoint
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
