"""A folder in which the names that the documents use exist: small images, random weights."""

import io
import os
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.torch import save_file

from jobs.cli import main
from models.networks.weights import WeightsCard
from pipeline.training.checkpoint import WEIGHTS
from tests.conftest import (
    REPOSITORY,
    lively_network,
    random_images,
    write_shard,
    write_tiny_weights,
)
from tests.documentation.commands import documented
from tests.models.networks.released import network_state, released_state, save_released

TINY_DEIT = "deit_tiny_patch16_224"
DATA = "imagenet-val-{000000..000049}.tar"
ARITHMETIC = ["--microbatch", "16", "--threads", "1", "--actors", "1"]


def base_for(tokens: list[str]) -> list[str]:
    """What ``...`` stands for in a documented ``run``: data, weights, output."""
    model = "smoothed_deit_small"
    if "--model" in tokens:
        model = tokens[tokens.index("--model") + 1]
    return ["--data", DATA, "--weights", f"{model}.safetensors", "--out", "out/"]


def make_world(folder: Path) -> Path:
    """Fill ``folder``; it is then a working directory for any documented command."""
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    _cifar10(folder)
    _imagenet(folder)
    for name, model, classes in (
        ("smoothed_deit_small", "deit_small_patch16_224", 1000),
        ("resnet50", "resnet50", 1000),
        ("tf_efficientnet_lite0", "tf_efficientnet_lite0", 1000),
    ):
        _weights(folder / f"{name}.safetensors", model, classes)
    # As published: without a word on what they are.
    save_file(network_state(TINY_DEIT, 1000), folder / f"{TINY_DEIT}.safetensors")
    for trained in sorted(_trained()):
        (folder / trained).mkdir(exist_ok=True)
        _weights(folder / trained / WEIGHTS, TINY_DEIT, 10)
    state = released_state(network_state(TINY_DEIT, 1000), vit=True)
    save_released(folder / "released.pt", state)
    _runs(folder)
    return folder


def _weights(path: Path, model: str, classes: int) -> None:
    card = WeightsCard(model=model, num_classes=classes)
    save_file(network_state(model, classes), path, metadata=card.to_metadata())


def _trained() -> set[str]:
    """Where documented trainings write, since what follows them begins from their weights."""
    tokens = [command.tokens for command in documented()]
    outs = {tokens[tokens.index("--out") + 1] for tokens in tokens if tokens[0] == "train"}
    return {out for out in outs if "://" not in out}


def _cifar10(folder: Path) -> None:
    """The sample's images over and over: a training holds 1,000 out and fills a batch of 128."""
    images, labels = [], []
    with tarfile.open(REPOSITORY / "examples/cifar10/data/cifar10-test-000.tar") as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    for name, data in members.items():
        if name.endswith(".png"):
            images.append({"bytes": data, "path": None})
            labels.append(int(members[name.replace(".png", ".cls")]))
    times = 1300 // len(images) + 1
    table = pa.table({"image": images * times, "label": labels * times})
    for name in ("cifar10_test", "cifar10_train", "kept", "tail", "train"):
        pq.write_table(table, folder / f"{name}.parquet")


def _imagenet(folder: Path) -> None:
    images: list[dict[str, object]] = []
    for index, pixels in enumerate(random_images(50, side=256)):
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "JPEG")
        samples = {f"{index}.jpg": sink.getvalue(), f"{index}.cls": str(index).encode()}
        write_shard(folder / f"imagenet-val-{index:06d}.tar", samples)
        images.append({"bytes": sink.getvalue(), "path": None})
    table = pa.table({"image": images, "label": list(range(len(images)))})
    pq.write_table(table, folder / "imagenet_val_subset.parquet")
    Image.fromarray(random_images(1, side=256)[0]).save(folder / "cat.jpg")


def _runs(folder: Path) -> None:
    """``out`` holds one run, ``two/out`` two, of 160 columns of 160 px."""
    weights = write_tiny_weights(folder / "tiny.safetensors")
    other = write_tiny_weights(folder / "other.safetensors", lively_network(1))
    samples = {}
    for index, pixels in enumerate(random_images(8, side=160)):
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "PNG")
        samples |= {f"{index}.png": sink.getvalue(), f"{index}.cls": str(index % 7).encode()}
    data = write_shard(folder / "few.tar", samples)
    votes = ["--size", "19", "--stride", "1", *ARITHMETIC, "--patch", "8", "32", "39"]
    command = ["run", "--data", str(data), *votes]
    assert main([*command, "--weights", str(weights), "--out", str(folder / "out")]) == 0
    (folder / "two").mkdir()
    shutil.copytree(folder / "out", folder / "two/out")
    assert main([*command, "--weights", str(other), "--out", str(folder / "two/out")]) == 0
    (folder / "run.yaml").write_text(
        f"data: {data}\nweights: {weights}\nout: out/yaml\nmicrobatch: 16\nthreads: 1\n"
    )
    os.link(data, folder / "two/few.tar")


def two_runs(folder: Path) -> list[str]:
    """Their ids, in no order."""
    return [path.name.removeprefix("run_id=") for path in (folder / "two/out/votes").iterdir()]
