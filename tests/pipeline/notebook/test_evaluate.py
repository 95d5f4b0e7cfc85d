"""``evaluate``: the same runs as the commands make, of names and of live modules."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import timm
import torch
from PIL import Image
from pytest import fixture, mark, raises
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

import pipeline.voting.vote
from jobs.cli import main
from models.errors import UnsupportedModelError, WeightsError
from models.networks.modules import adopt, module_sha256
from models.preprocess import Preprocess
from pipeline.analysis import open_run
from pipeline.config import ConfigError
from pipeline.notebook import certify, evaluate
from pipeline.notebook.pictures import write_dataset
from pipeline.sources.base import SourceOptions
from pipeline.sources.decode import decode
from pipeline.sources.listing import list_images
from pipeline.sources.reading import read_bytes_of
from tests.conftest import (
    REPOSITORY,
    TINY,
    TINY_CLASSES,
    TINY_PREPROCESS,
    TINY_PX,
    lively_network,
    png,
    random_images,
)
from tests.in_process import stages_here

COUNT = 4
PATCH = {"patch": 20, "masks": 2}
SMALL = Preprocess(
    resize=None, crop=12, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)


class SmallNet(nn.Module):
    """A network that timm does not know, with ``view``, which its pixels' order may forbid."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gain = gain
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.head = nn.Linear(100, 3)

    def forward(self, pixels):
        return self.gain * self.head(self.conv(pixels).relu().view(len(pixels), -1))


def pictures() -> list[tuple[Image.Image, int]]:
    """A map-style dataset of the tiny network's classes."""
    images = random_images(COUNT, seed=5)
    return [(Image.fromarray(image), index % TINY_CLASSES) for index, image in enumerate(images)]


def small(count: int = 3) -> list[tuple[np.ndarray, int]]:
    return [(image, index) for index, image in enumerate(random_images(count, side=12))]


@fixture(autouse=True)
def same_threads():
    """Commands that vote in this process set the number of its threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The images of ``pictures`` as a folder of class folders."""
    root = tmp_path_factory.mktemp("folder")
    for index, (image, label) in enumerate(pictures()):
        (root / str(label)).mkdir(exist_ok=True)
        (root / str(label) / f"{index}.png").write_bytes(png(np.asarray(image)))
    return root


@fixture(scope="module")
def evaluated(folder, tiny_weights, tmp_path_factory):
    """The tiny network by its name."""
    out = tmp_path_factory.mktemp("out")
    return evaluate(TINY, folder, weights=tiny_weights, out=out, **PATCH)


def test_a_name_makes_the_run_of_the_command(
    evaluated, folder, tiny_weights, tmp_path, monkeypatch, capsys
):
    stages_here(monkeypatch)
    flags = ["--data", str(folder), "--weights", str(tiny_weights), "--patch", "20"]
    flags += ["--views", "mask-pair", "--covers", "20", "--masks", "2", "--mlflow", "none"]
    assert main(["run", *flags, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    ran = open_run(tmp_path)
    assert ran.run_id == evaluated.run_id
    assert ran.table("votes").equals(evaluated.run.table("votes"))
    first = next(one for one in ran.summary["certified_accuracy"] if one["rule"] == "two-location")
    assert first == evaluated.claims[0]
    assert (evaluated.certified_accuracy, evaluated.clean_accuracy) == (
        first["value"],
        first["clean_accuracy"]["value"],
    )
    assert evaluated.plain_accuracy == ran.summary["plain_accuracy"]["value"]
    # The table, as far as the width of the terminal does not decide how lines are broken.
    words = {word for word in evaluated.table().split() if not word.startswith("─")}
    assert words <= set(printed.split())
    assert "two-location" in evaluated._repr_html_()


def test_called_again_it_computes_nothing(evaluated, folder, tiny_weights, monkeypatch):
    def built(*_):
        raise AssertionError("the network was built again")

    monkeypatch.setattr(pipeline.voting.vote, "build_classifier", built)
    again = evaluate(TINY, folder, weights=tiny_weights, out=evaluated.out, **PATCH)
    assert (again.run_id, again.claims) == (evaluated.run_id, evaluated.claims)
    # Of a module, too.
    with raises(AssertionError, match="built again"):
        evaluate(SmallNet(), small(), patch=2, preprocess=SMALL, out=evaluated.out)


def test_a_dataset_is_the_source_of_the_same_images(evaluated, tiny_weights):
    found = evaluate(TINY, pictures(), weights=tiny_weights, out=evaluated.out, **PATCH)
    # A folder is listed in the order of its paths, which is that of the labels here.
    assert (found.run.votes.votes == evaluated.run.votes.votes).all()
    assert (found.run.votes.labels.classes == evaluated.run.votes.labels.classes).all()
    fewer = evaluate(TINY, pictures(), weights=tiny_weights, out=evaluated.out, limit=2, **PATCH)
    assert fewer.summary["images"] == 2


def test_a_live_module_votes_as_its_name_does(evaluated, folder):
    module = lively_network().half().train()
    found = evaluate(
        lively_network(), folder, preprocess=TINY_PREPROCESS, out=evaluated.out, **PATCH
    )
    assert (found.run.votes.votes == evaluated.run.votes.votes).all()
    assert found.run.manifest.defense.tokens == "drop"
    assert found.run_id != evaluated.run_id
    before = torch.get_num_threads()
    evaluate(module, folder, preprocess=TINY_PREPROCESS, out=evaluated.out, limit=1, **PATCH)
    # The program's own module and settings are as they were.
    assert module.training
    assert next(module.parameters()).dtype == torch.float16
    assert torch.get_num_threads() == before


def test_any_module_votes_on_black_pixels_and_is_told_from_others(tmp_path):
    def run_of(module):
        return evaluate(module, small(), patch=2, masks=2, preprocess=SMALL, out=tmp_path)

    first = run_of(SmallNet())
    assert first.run.manifest.defense.tokens == "black"
    assert first.run.manifest.defense.network.num_classes == 3
    assert first.run.manifest.defense.network.name == f"{__name__}.SmallNet"
    assert run_of(SmallNet()).run_id == first.run_id
    other = SmallNet()
    with torch.no_grad():
        other.head.bias[0] += 1
    assert len({run_of(one).run_id for one in (SmallNet(), other, SmallNet(gain=2.0))}) == 3


def test_an_edited_method_is_another_module():
    class Edited(SmallNet):
        def forward(self, pixels):
            return super().forward(pixels.flip(-1))

    edited = Edited()
    before = module_sha256(edited)
    assert before == module_sha256(edited)
    Edited.forward = lambda self, pixels: super(Edited, self).forward(pixels.flip(-2))
    assert module_sha256(edited) != before


@mark.parametrize(
    ("one", "other"),
    [
        (functional.relu, functional.gelu),
        (lambda x: x, lambda x: 2 * x),
        (torch.ones(2), torch.zeros(2)),
        (np.ones(2), np.zeros(2)),
        ({"scale": 1}, {"scale": 2}),
        ({1, 2}, {1, 3}),
        (SimpleNamespace(depth=1), SimpleNamespace(depth=2)),
    ],
)
def test_an_attribute_that_decides_is_part_of_what_a_module_is(one, other):
    def digest(value):
        module = nn.Linear(2, 2)
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
        module.setting = value
        return module_sha256(module)

    assert digest(one) == digest(one) != digest(other)


def test_a_buffer_outside_the_state_is_part_of_what_a_module_is():
    module = nn.Identity()
    module.register_buffer("scale", torch.ones(1), persistent=False)
    before = module_sha256(module)
    module.scale += 1
    assert module_sha256(module) != before


class _Scaled(nn.Module):
    scale = 1

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 2)

    @staticmethod
    def factor():
        return 1

    @torch.no_grad()
    def forward(self, pixels):
        return self.head(pixels.mean((1, 2, 3))[:, None]) * self.scale * self.factor()


def test_what_a_class_defines_is_part_of_what_a_module_is(monkeypatch):
    module = _Scaled()
    before = module_sha256(module)
    for name, value in (
        ("scale", 2),
        ("factor", staticmethod(lambda: 2)),
        ("forward", torch.no_grad()(lambda self, pixels: self.head(pixels))),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(_Scaled, name, value)
            assert module_sha256(module) != before, name
    assert module_sha256(module) == before


def test_a_replaced_method_is_called_and_not_passed_over():
    module = timm.create_model(TINY, num_classes=7).eval()
    assert adopt(module, (TINY_PX, TINY_PX)).tokens == "drop"
    module.pool = lambda tokens, **_: tokens[:, 1]
    assert adopt(module, (TINY_PX, TINY_PX)).tokens == "black"


_SEEN: list[str] = []


class _Asked(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 7)

    def forward(self, pixels):
        _SEEN.append(torch.backends.mkldnn.matmul.fp32_precision)
        return self.head(pixels.mean((2, 3)))


def test_votes_are_of_float32_whatever_the_program_allows(tmp_path):
    """torch.set_float32_matmul_precision("medium") lets products be of bfloat16 on CPUs."""
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    try:
        products.fp32_precision = "bf16"
        evaluate(_Asked(), small(), patch=2, masks=2, preprocess=SMALL, out=tmp_path)
        assert products.fp32_precision == "bf16"
    finally:
        products.fp32_precision = before
    assert _SEEN[-1] == "ieee"


def test_votes_are_of_float32_inside_a_program_s_own_contexts(tmp_path):
    """Autocast would compute them in bfloat16, and tensors would be made where no data are."""
    found = []

    class Seeing(_Asked):
        def forward(self, pixels):
            logits = super().forward(pixels)
            found.append((logits.dtype, torch.zeros(1).device.type))
            return logits

    module = Seeing()
    with torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        evaluate(module, small(), patch=2, masks=2, preprocess=SMALL, out=tmp_path)
        assert module.head(torch.zeros(1, 3, device="cpu")).dtype == torch.bfloat16
    assert found
    assert set(found) == {(torch.float32, "cpu")}


@mark.parametrize(
    ("changes", "says"),
    [
        ({"patch": 0.02}, "patch=0.02: give a whole number"),
        ({"rules": "two-location"}, "give a list of names"),
        ({"limit": 0}, "limit=0: it must be at least 1"),
        ({"preprocess": "cifar"}, "preprocess='cifar': give one of"),
        ({"device": "gpu"}, "device='gpu': give one of auto, cpu, cuda"),
        ({"model": len}, "a builtin_function_or_method is neither"),
        ({"model": nn.Linear}, "Linear is a class"),
    ],
)
def test_mistakes_are_named_before_anything_is_read(changes, says):
    with raises(ConfigError, match=says):
        evaluate(**{"model": TINY, "data": "nowhere", "patch": 4} | changes)


def test_a_hooked_transformer_is_called_as_a_whole(evaluated, folder):
    module = lively_network()
    module.register_forward_hook(lambda self, given, logits: -logits)
    found = evaluate(module, folder, preprocess=TINY_PREPROCESS, out=evaluated.out, **PATCH)
    assert found.run.manifest.defense.tokens == "black"


def test_a_name_whose_tokens_cannot_be_dropped_sees_black_pixels(tmp_path):
    weights = tmp_path / "resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    data = [(image, 0) for image in random_images(1, side=32)]
    look = replace(SMALL, crop=32)
    found = evaluate(
        "test_resnet", data, weights=weights, patch=4, masks=1, preprocess=look, out=tmp_path
    )
    defense = found.run.manifest.defense
    assert (defense.tokens, defense.model_input) == ("black", look)


class _ByBatch(SmallNet):
    def forward(self, pixels):
        return super().forward(pixels - pixels.mean())


class _ByChance(SmallNet):
    def forward(self, pixels):
        return super().forward(nn.functional.dropout(pixels))


class _Pair(SmallNet):
    def forward(self, pixels):
        return super().forward(pixels), pixels


def _broken() -> nn.Module:
    module = SmallNet()
    with torch.no_grad():
        module.head.weight[0, 0] = float("nan")
    return module


@mark.parametrize(
    ("make", "error", "says"),
    [
        (_broken, WeightsError, "SmallNet: 1 of 4 tensors are not finite"),
        (_ByBatch, UnsupportedModelError, "change with the other images"),
        (_ByChance, UnsupportedModelError, "change with the other images"),
        (_Pair, UnsupportedModelError, "gives tuple"),
        (nn.Flatten, UnsupportedModelError, "no parameters"),
        (lambda: torch.jit.script(nn.Linear(5, 5)), UnsupportedModelError, "hides its code"),
        (lambda: nn.Linear(5, 5), UnsupportedModelError, "size of its input with preprocess="),
    ],
)
def test_modules_that_cannot_vote_are_refused(make, error, says, tmp_path):
    with raises(error, match=says):
        evaluate(make(), small(), patch=2, preprocess=SMALL, out=tmp_path)
    assert not (tmp_path / "votes").exists()


@mark.parametrize(
    ("data", "says"),
    [
        ([(torch.rand(3, 12, 12), 0)], r"data\[0\]: .*float32.*take ToTensor"),
        ([(np.zeros((12, 12, 4), np.uint8), 0)], r"shape \(12, 12, 4\)"),
        ([np.zeros((12, 12, 3), np.uint8)], "pair"),
        ([(Image.fromarray(np.full((12, 12), 0.5, np.float32)), 0)], "of mode F, whose pixels"),
        ([(Image.fromarray(np.full((12, 12), 400, np.int32)), 0)], "of mode I, whose pixels"),
        ([(np.zeros((12, 12, 3), np.uint8), 1.9)], "no pair .image, class number."),
        ([], "holds no image"),
        (DataLoader([1]), "give its .dataset"),
        (iter(()), "map-style Dataset"),
    ],
)
def test_datasets_without_pictures_are_refused(data, says, tmp_path):
    with raises(ConfigError, match=says):
        evaluate(SmallNet(), data, patch=2, preprocess=SMALL, out=tmp_path)


def test_pixels_are_stored_as_they_are_however_they_lie(tmp_path):
    (pixels,) = random_images(1, side=9)
    layouts = [
        Image.fromarray(pixels),
        pixels,
        torch.from_numpy(pixels).permute(2, 0, 1),
        np.moveaxis(pixels, -1, 0),
    ]
    (path,) = {write_dataset([(layout, 3)], str(tmp_path)) for layout in layouts}
    table = list_images(path, SourceOptions(), None).table
    (data,) = read_bytes_of(table, SourceOptions())
    assert (np.asarray(decode(data)) == pixels).all()
    assert table["label"].to_pylist() == [3]
    gray = write_dataset([(torch.from_numpy(pixels[None, ..., 0]), 0)], str(tmp_path))
    (data,) = read_bytes_of(list_images(gray, SourceOptions(), None).table, SourceOptions())
    assert (np.asarray(decode(data))[..., 2] == pixels[..., 0]).all()


def test_figures_are_shares_of_the_labelled_images(tmp_path):
    module = SmallNet()
    with torch.no_grad():
        module.head.bias[1] = 1e3  # the answer to every view
    data = [(image, label) for (image, _), label in zip(small(4), (1, 1, 0, -1), strict=True)]
    found = evaluate(module, data, patch=2, masks=2, preprocess=SMALL, out=tmp_path)
    assert found.clean_accuracy == found.certified_accuracy == found.plain_accuracy == 2 / 3
    low, high = found.certified_interval
    assert 0 < low < 2 / 3 < high < 1
    assert "66.7 %" in found.table()
    votes = found.run.votes
    again = certify(votes.votes, found.run.views, patch=2, truth=votes.labels.classes[:, 0])
    assert again.clean_accuracy == again.certified_accuracy == 2 / 3
    unknown = [(image, -1) for image, _ in small(2)]
    found = evaluate(module, unknown, patch=2, masks=2, preprocess=SMALL, out=tmp_path)
    assert np.isnan([found.clean_accuracy, found.certified_accuracy]).all()


def test_which_patch_masks_cover_and_which_claim_comes_first(tmp_path):
    def of(**asked):
        return evaluate(SmallNet(), small(), preprocess=SMALL, out=tmp_path, **asked)

    several = of(patch=[2, 3], masks=2)
    assert [str(one) for one in several.run.views.covers] == ["3x3 px"]
    assert not several.run.manifest.defense.voting.early_exit
    assert (several.claims[0]["threat"], several.claims[0]["rule"]) == ("2x2", "two-location")
    assert {one["threat"] for one in several.claims} == {"2x2", "3x3"}
    detection = of(patch=2, masks=2, rules=["one-location"])
    assert [one["rule"] for one in detection.claims] == ["one-location"]
    bands = of(patch=2, views="column", size=2)
    assert bands.claims[0]["rule"] == "exact"
    assert {one["rule"] for one in bands.claims} == {"exact", "uniform"}
    source = of(patch="source:2", covers=3, masks=2)
    assert source.claims[0]["threat"] == "source:2"
    for patch in ("source:2", ["1x2", "2x1"], "2of2"):
        with raises(ConfigError, match="covers=48"):
            of(patch=patch)
    with raises(ConfigError, match="a module has its own"):
        of(patch=2, weights="x.safetensors")


def test_every_command_that_reads_votes_opens_the_run_of_a_module(tmp_path, capsys):
    found = evaluate(SmallNet(), small(), patch=2, masks=2, preprocess=SMALL, out=tmp_path)
    run, out = found.run_id, ["--out", str(tmp_path)]
    for command in (
        ["certify", "--run-id", run, "--patch", "2", "--mlflow", "none"],
        ["sql", "SELECT model FROM runs"],
        ["report", run, "--to", str(tmp_path / "page.html")],
        ["classes", "--run-id", run],
        ["verify", run],
        ["export", run, "--to", str(tmp_path / "exported")],
    ):
        assert main([*command, *out]) == 0, capsys.readouterr().err
    capsys.readouterr()
    # Its views were asked only as far as a certificate needs them.
    assert main(["heatmap", "--run-id", run, "--patch", "2", *out]) == 2
    assert "--all-views" in capsys.readouterr().err
    for command in (
        ["attack", "--run-id", run, "--patch", "2"],
        ["attack", "--run-id", run, "--patch", "2", "--weights", "other.safetensors"],
        ["register", run, "--name", "net"],
    ):
        assert main([*command, *out]) == 2
        said = capsys.readouterr().err
        assert "SmallNet that a Python program handed to pipeline.notebook.evaluate" in said
        assert "safetensors.torch.save_file" in said


def test_nothing_of_ray_or_mlflow_is_imported(folder, tiny_weights, tmp_path):
    program = f"""
import sys
from pipeline.notebook import evaluate
assert "torch" not in sys.modules
found = evaluate({TINY!r}, {str(folder)!r}, weights={str(tiny_weights)!r}, patch={TINY_PX // 8},
                 masks=1, limit=1, out={str(tmp_path)!r})
print(found.run_id, [name for name in ("ray", "mlflow") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1)[1].strip() == "[]"
