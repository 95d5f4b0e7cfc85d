"""timm is imported without torch's compiler, and whoever wants the compiler gets the true one."""

import subprocess
import sys

from tests.conftest import REPOSITORY

VOTING = """
import sys, torch
import models
import timm
from models.networks.zoo import load_network, outline
assert timm.__loader__ is timm.__spec__.loader
assert "SourceFileLoader" in repr(timm.__loader__)
network = outline("deit_tiny_patch16_224", 10)
assert {weight.device.type for weight in network.parameters()} == {"meta"}
assert not [name for name in sys.modules if name.startswith("torch._dynamo")]
import torch._dynamo
assert torch._dynamo.__file__
import torchvision.ops
supported = sys.modules["torchvision.ops.roi_align"].is_compile_supported
assert supported("cpu") is torch._dynamo.utils.is_compile_supported("cpu")
compiled = torch.compile(timm.create_model("test_vit").eval(), backend="eager")
assert compiled(torch.zeros(1, 3, 160, 160)).shape == (1, 1000)
print("as wanted")
"""

# A release that asks the compiler for more than the stand-in has.
OTHER = """
import contextlib, sys, types
from models import lean_timm

@contextlib.contextmanager
def less():
    sys.modules["torch._dynamo"] = types.ModuleType("torch._dynamo")
    try:
        yield
    finally:
        del sys.modules["torch._dynamo"]

lean_timm._without_compiler = less
import timm.layers._fx
assert timm.is_model("test_vit")
assert timm.layers._fx.has_fx_feature_extraction
assert sys.modules["torch._dynamo"].__file__
print("as wanted")
"""


def said_by(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_networks_are_made_without_the_compiler_that_is_there_for_others():
    assert said_by(VOTING) == "as wanted\n"


def test_where_the_stand_in_is_not_enough_the_compiler_is_imported():
    assert said_by(OTHER) == "as wanted\n"
