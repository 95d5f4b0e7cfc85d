"""A training that takes seconds: three classes told by colour, the smallest transformer."""

from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from models.networks.weights import WeightsCard
from models.preprocess import Preprocess
from pipeline.training.config import TrainConfig, TrainingPlace
from pipeline.training.recipe import Recipe, resolve_recipe
from tests.conftest import TINY, png, write_shard

CLASSES = 3
CPU = torch.device("cpu")
# 20 px, enlarged to the 160 px of timm's smallest transformer.
PREPROCESS = Preprocess(
    resize=None,
    crop=20,
    interpolation="nearest",
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    pixel_scale=8,
)


def colours(count: int, seed: int = 0) -> np.ndarray:
    """Noise with one channel brighter, by class; uint8 (count, 20, 20, 3)."""
    pixels = np.random.default_rng(seed).integers(0, 100, (count, 20, 20, 3), dtype=np.uint8)
    for index in range(count):
        pixels[index, :, :, index % CLASSES] += 150
    return pixels


def batch(count: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and classes of one step."""
    return torch.from_numpy(colours(count, seed)), torch.arange(count) % CLASSES


def write_images(path: Path, count: int, seed: int = 0, labelled: bool = True) -> Path:
    samples: dict[str, bytes] = {}
    for index, image in enumerate(colours(count, seed)):
        samples[f"{index:03d}.png"] = png(image)
        if labelled:
            samples[f"{index:03d}.cls"] = str(index % CLASSES).encode()
    return write_shard(path, samples)


def write_init(path: Path, *, num_classes: int = CLASSES, model: str = TINY) -> Path:
    """Freshly initialized weights that say what they are for."""
    torch.manual_seed(3)
    network = timm.create_model(model, num_classes=num_classes)
    card = WeightsCard(
        model=model,
        num_classes=num_classes,
        preprocess=PREPROCESS,
        ablation={"kind": "column", "size": 4, "stride": 1},
        tokens="drop",
        recipe={"made by": "tests"},
    )
    save_file(network.state_dict(), path, metadata=card.to_metadata())
    return path


def toy_config(folder: Path, images: int = 42, **changes: object) -> TrainConfig:
    data, init = folder / "toy.tar", folder / "init.safetensors"
    if not data.exists():
        write_images(data, images)
    if not init.exists():
        write_init(init)
    settings: dict[str, object] = {
        "data": str(data),
        "init": str(init),
        "epochs": 2,
        "batch": 12,
        "lr": 2e-3,
        "warmup": 2,
        "validation": 6,
        "estimate": 6,
        "average": 0.7,
        "save_as": "float32",
    }
    return TrainConfig(**(settings | changes))


def toy_recipe(folder: Path, images: int = 42, **changes: object) -> Recipe:
    return resolve_recipe(toy_config(folder, images, **changes))


def toy_place(folder: Path, **changes: object) -> TrainingPlace:
    settings: dict[str, object] = {
        "out": str(folder / "out"),
        "device": "cpu",
        "threads": 1,
        "no_ray": True,
        "mlflow": "none",
    }
    return TrainingPlace(**(settings | changes))
