"""What many tests share: a tiny network with known weights, shards of small images, one Ray."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from models.classifiers.drop import TokenDropViT
from models.networks.weights import WeightsCard
from models.preprocess import Preprocess
from models.views.ablations import Ablation

# Before the first matrix product, as the pipeline does; and one thread: tiny networks gain nothing
# from two, and on a busy machine threads that wait for each other are many times slower.
os.environ.setdefault("MKL_CBWR", "AUTO")
torch.set_num_threads(1)

REPOSITORY = Path(__file__).parents[1]
SHARED_DATA = REPOSITORY.parent / "shared/data"
# timm's smallest Vision Transformer: 160 px, 10 x 10 tokens of 16 px, 64 channels.
TINY, TINY_PX, TINY_CLASSES = "test_vit", 160, 7
TINY_PREPROCESS = Preprocess(
    resize=None,
    crop=TINY_PX,
    interpolation="bilinear",
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images and weights that are kept outside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data (../shared/data) is not here")
    return SHARED_DATA


def lively_network(seed: int = 0) -> torch.nn.Module:
    """The tiny network with weights large enough that its votes differ between ablations."""
    generator = torch.Generator().manual_seed(seed)
    network = timm.create_model(TINY, num_classes=TINY_CLASSES)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                # The class token is kept small: otherwise it outshouts the image.
                parameter.copy_(noise * (0.02 if name == "cls_token" else 0.3))
            elif "norm" in name and name.endswith("weight"):
                parameter.fill_(1.0)
            elif name.endswith("gamma"):
                parameter.fill_(0.5)
            else:
                parameter.copy_(noise * 0.02)
    return network.eval()


@pytest.fixture(scope="session")
def network() -> torch.nn.Module:
    return lively_network()


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory, network: torch.nn.Module) -> Path:
    """The tiny network as a file that says everything of itself."""
    return write_tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors", network)


def write_tiny_weights(path: Path, network: torch.nn.Module | None = None) -> Path:
    """The tiny network's weights, with all that their card can say."""
    card = WeightsCard(
        model=TINY,
        num_classes=TINY_CLASSES,
        preprocess=TINY_PREPROCESS,
        ablation={"kind": "column", "size": 24, "stride": 16},
        tokens="drop",
    )
    network = network or lively_network()
    save_file(network.state_dict(), path, metadata=card.to_metadata())
    return path


def random_images(count: int, side: int = TINY_PX, seed: int = 0) -> np.ndarray:
    """Blobs rather than noise, so that ablations of one image differ; uint8 (count, h, w, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(one).resize((side, side), Image.BICUBIC)) for one in coarse]
    )


def png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def write_shard(path: Path, samples: dict[str, bytes]) -> Path:
    """A tar of members by name."""
    with tarfile.open(path, "w") as archive:
        for name, data in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards, 23 images: one cannot be decoded, one has another size, one has no label."""
    folder = tmp_path_factory.mktemp("shards")
    images = random_images(21)
    samples: dict[str, bytes] = {}
    for index, image in enumerate(images):
        samples[f"{index:03d}.png"] = png(image)
        if index != 4:
            samples[f"{index:03d}.cls"] = str(index % TINY_CLASSES).encode()
    samples["021.jpg"], samples["021.cls"] = b"no picture", b"1"
    samples["022.png"], samples["022.cls"] = png(images[0][:50]), b"2"
    names = list(samples)
    cut = names.index("012.png")
    write_shard(folder / "shard-000.tar", {name: samples[name] for name in names[:cut]})
    write_shard(folder / "shard-001.tar", {name: samples[name] for name in names[cut:]})
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray for all tests: starting it costs five seconds."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


def tiny_ablation(kind: str = "column", size: int = 24, stride: int = 16) -> Ablation:
    return Ablation(kind=kind, size=size, stride=stride, height=TINY_PX, width=TINY_PX)


def tiny_model(network: torch.nn.Module, ablation: Ablation) -> TokenDropViT:
    return TokenDropViT(network, ablation, TINY_PREPROCESS).eval()
