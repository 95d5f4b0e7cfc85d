"""The speed of the votes pass beside the speeds it is compared with, in one run.

Contenders, each with all threads and a batch of its own: the plain network, a plain ResNet-50,
hidden tokens dropped (bands at several strides, and pairs of masks), hidden tokens black, the
published way of dropping, a CNN on black-masked images. Weights and pixels are random: speed does
not depend on them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.classifiers.black import BlackMasked
from models.classifiers.build import base_classifier
from models.classifiers.drop import TokenDropViT
from models.classifiers.smoothed import SmoothedClassifier
from models.preprocess import PRESETS
from models.views.ablations import Ablation
from models.views.family import Patch, ViewFamily
from models.views.masks import Masks, Placement
from pipeline.bench.clock import side_by_side
from pipeline.bench.hardware import peak_gpu_memory_mib
from pipeline.bench.operations import (
    Operations,
    matmul_tasks,
    operations_an_image,
    operations_of_matmul,
)
from pipeline.bench.stages import stage_seconds
from pipeline.runs.numerics import MICROBATCH, microbatch_of, pin_mkl

_LOOK = PRESETS["imagenet"]
PLAIN, BLACK, PUBLISHED = "plain network", "black tokens", "published drop path"
CNN_PLAIN, CNN_MASKED = "plain CNN", "CNN on masked images"
_MOST_PADDING = 0.1


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Settings of the measurement.

    Attributes:
        model: timm name of the Vision Transformer.
        cnn: timm name of the convolutional network beside it.
        size: Width of the bands in pixels.
        strides: Distances of neighbouring bands in pixels; the first is compared with the others.
        masks: Masks an axis, of pairs of masks to time beside the bands.
        covers: Side of the largest patch that the masks cover, in pixels.
        dtypes: Types of arithmetic.
        device: Device of every contender.
        microbatch: Sequences a forward pass; None for as many as a run takes.
        images: Images a votes pass.
        rounds: Times that each contender is timed.
    """

    model: str = "deit_tiny_patch16_224"
    cnn: str = "resnet50"
    size: int = 19
    strides: tuple[int, ...] = (1, 16)
    masks: tuple[int, ...] = (6, 3)
    covers: int = 32
    dtypes: tuple[str, ...] = ("float32",)
    device: str = "cpu"
    microbatch: int | None = None
    images: int = 16
    rounds: int = 3


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Speed of one contender.

    Attributes:
        name: The contender.
        dtype: Its arithmetic.
        images_a_second: Whole votes passes a second, or plain forward passes.
        ablations_a_second: Views classified a second; 0 for a plain network.
        full_passes: Nominal operations of one image over those of the whole image alone.
        share_nominal: Nominal operations a second over the machine's rate for large products.
        share_executed: The same for the operations that really ran.
        peak_gpu_memory_mib: Most memory of the GPU held during one call, in MiB, the weights of
            every contender among it; None on CPUs, where a process has one figure for all.
    """

    name: str
    dtype: str
    images_a_second: float
    ablations_a_second: float = 0.0
    full_passes: float | None = None
    share_nominal: float | None = None
    share_executed: float | None = None
    peak_gpu_memory_mib: float | None = None


def measure_engine(settings: EngineSettings) -> dict[str, Any]:
    """Time every contender; paces, matmul rates, ratios and stages as plain JSON."""
    pin_mkl()
    device = torch.device(settings.device)
    torch.backends.cudnn.benchmark = False
    paces: list[Pace] = []
    rates: dict[str, float] = {}
    stages: dict[str, dict[str, float]] = {}
    for dtype in settings.dtypes:
        bench = _Contenders(settings, getattr(torch, dtype), device)
        products = matmul_tasks(bench.dtype, device)
        seconds = side_by_side({**bench.tasks, **products}, settings.rounds, device)
        rates[dtype] = max(operations_of_matmul(name) / seconds[name] for name in products)
        paces += [bench.pace(name, seconds[name], rates[dtype]) for name in bench.tasks]
        stages[dtype] = bench.stages()
    return {
        "settings": vars(settings) | {"threads": torch.get_num_threads()},
        "matmul_gflops": {dtype: rate / 1e9 for dtype, rate in rates.items()},
        "paces": [vars(pace) for pace in paces],
        "stages": stages,
        "ratios": ratios(settings, paces, rates),
    }


def ratios(
    settings: EngineSettings, paces: list[Pace], rates: dict[str, float]
) -> dict[str, float]:
    """Compare the engine with the others: ratios of two paces of this run."""
    # After a comma, a name states how the contender ran.
    speed = {(pace.name, pace.dtype): pace for pace in paces}
    cnn = {pace.dtype: pace for pace in paces if pace.name.split(",")[0] == CNN_PLAIN}
    ours = dropping(settings.strides[0])
    found: dict[str, float] = {}
    for dtype in settings.dtypes:
        drop = speed[ours, dtype]
        for name, rival in (
            ("black tokens", BLACK),
            (f"{settings.cnn} on masked images", CNN_MASKED),
        ):
            found[f"dropping over {name}, {dtype}"] = (
                drop.ablations_a_second / speed[rival, dtype].ablations_a_second
            )
        coarse = speed[dropping(settings.strides[-1]), dtype]
        found[f"smoothed, stride {settings.strides[-1]}, over plain {settings.cnn}, {dtype}"] = (
            coarse.images_a_second / cnn[dtype].images_a_second
        )
        for most in settings.masks:
            found[f"{ours} over {masking(most)}, images, {dtype}"] = (
                drop.images_a_second / speed[masking(most), dtype].images_a_second
            )
        if (PUBLISHED, "float32") in speed:
            found[f"dropping, {dtype}, over the published path, float32"] = (
                drop.ablations_a_second / speed[PUBLISHED, "float32"].ablations_a_second
            )
    if len(settings.dtypes) > 1:
        fast, slow = settings.dtypes[1], settings.dtypes[0]
        found[f"{fast} over {slow}"] = (
            speed[ours, fast].ablations_a_second / speed[ours, slow].ablations_a_second
        )
        found[f"matmul rate, {fast} over {slow}"] = rates[fast] / rates[slow]
    return found


def dropping(stride: int) -> str:
    """Name of the contender that drops tokens at a stride."""
    return f"tokens dropped, stride {stride}"


def _padding(classifier: TokenDropViT | BlackMasked, images: int, microbatch: int) -> float:
    """Share of the sequences of a pass that only fill microbatches up."""
    asked = [images * len(views) for _, views in classifier.groups()]
    return 1 - sum(asked) / sum(math.ceil(count / microbatch) * microbatch for count in asked)


def masking(most: int) -> str:
    """Name of the contender that drops the tokens of pairs of masks, at most so many an axis."""
    return f"pairs of masks, {most} an axis"


class _Contenders:
    """All contenders in one arithmetic, built once."""

    def __init__(self, settings: EngineSettings, dtype: torch.dtype, device: torch.device) -> None:
        self.settings, self.dtype, self.device = settings, dtype, device
        torch.manual_seed(0)
        self.network = self._placed(timm.create_model(settings.model))
        self.cnn = self._placed(timm.create_model(settings.cnn))
        height, width = _LOOK.model_px
        pixels = np.random.default_rng(0).integers(
            0, 256, (settings.images, height, width, 3), dtype=np.uint8
        )
        self.pixels = pixels
        self._microbatch = settings.microbatch or MICROBATCH[device.type]
        self.tasks: dict[str, Callable[[], object]] = {}
        self.images: dict[str, float] = {}
        self.ablations: dict[str, float] = {}
        self.operations: dict[str, Operations] = {}
        self.voting: list[tuple[SmoothedClassifier, NDArray[np.uint8]]] = []
        for stride in settings.strides:
            ablation = self._ablation(stride)
            # As many images at a coarse stride as keep the passes alike in length.
            repeat = max(1, len(self._ablation(1)) // len(ablation) // 4)
            self._add_votes(dropping(stride), ablation, len(pixels) * repeat)
        bands = self.operations[dropping(settings.strides[0])]
        for most in settings.masks:
            self._add_votes(masking(most), self._masks(most), len(pixels), bands.full_passes)
        self._add_dense(BLACK, self._classifier("black", self._ablation(settings.strides[0])))
        self._add_dense(CNN_MASKED, self._masked_cnn())
        self._add_plain(PLAIN, self.network, self._batch())
        self._add_plain_cnn()
        if dtype is torch.float32:
            self._add_published()

    def _placed(self, network: nn.Module) -> nn.Module:
        return network.to(self.device, self.dtype).eval()

    def _ablation(self, stride: int) -> Ablation:
        height, width = _LOOK.crop_px
        return Ablation(
            kind="column", size=self.settings.size, stride=stride, height=height, width=width
        )

    def _masks(self, most: int) -> Masks:
        (height, width), covered = _LOOK.crop_px, self.settings.covers
        return Masks.placed(
            height=height,
            width=width,
            placements=[
                (
                    Placement.covering(height, covered, most),
                    Placement.covering(width, covered, most),
                )
            ],
            pairs=True,
            covers=(Patch.square(covered),),
        )

    def _classifier(self, tokens: Any, views: ViewFamily) -> TokenDropViT | BlackMasked:
        classifier = base_classifier(self.network, views, _LOOK, tokens)
        return classifier.to(self.device).eval()

    def _masked_cnn(self) -> BlackMasked:
        ablation = self._ablation(self.settings.strides[0])
        return BlackMasked(self.cnn, ablation, _LOOK).to(self.device).eval()

    def _add_votes(
        self, name: str, views: ViewFamily, images: int, full_passes: float | None = None
    ) -> None:
        """The whole votes pass of the engine: every view, and the plain prediction.

        Args:
            name: The contender.
            views: Its views.
            images: Images of one pass.
            full_passes: Cost of an image for which that many images were meant: fewer are taken of
                a family that costs more, so that the passes are alike in length, but enough to
                fill microbatches.
        """
        classifier = self._classifier("drop", views)
        counts = operations_an_image(classifier)
        asked = self.settings.microbatch
        microbatch = asked or microbatch_of(self.device.type, views, _LOOK.model_px)
        if full_passes is not None:
            images = max(1, round(images * full_passes / counts.full_passes))
        # A unit of a run has many images: what fills up the last microbatch is next to nothing.
        while _padding(classifier, images, microbatch) > _MOST_PADDING:
            images += 1
        smoothed = SmoothedClassifier(classifier.pack(), self.device, microbatch)
        pixels = np.resize(self.pixels, (images, *self.pixels.shape[1:]))
        self.tasks[name] = lambda: smoothed(pixels)
        self.images[name] = images
        self.ablations[name] = images * len(views)
        self.operations[name] = counts
        self.voting.append((smoothed, pixels))

    def _add_dense(self, name: str, classifier: TokenDropViT | BlackMasked) -> None:
        """One microbatch of the many that a dense pass takes: all of them are alike."""
        count = max(16, self._microbatch // 4)
        image_s = torch.arange(count, device=self.device) % len(self.pixels)
        view_s = torch.arange(count, device=self.device) % len(classifier.views)
        images = torch.from_numpy(self.pixels).to(self.device)

        def forward() -> object:
            with torch.inference_mode():
                return classifier(classifier.tokens(images), image_s, view_s)

        self.tasks[name] = forward
        self.ablations[name] = count
        self.images[name] = count / len(classifier.views)

    def _batch(self) -> Tensor:
        """Whole images for a plain network."""
        count = max(16, self._microbatch // 4)
        return torch.randn((count, 3, *_LOOK.model_px), device=self.device).to(self.dtype)

    def _add_plain_cnn(self) -> None:
        """Compile the network for its one shape on a GPU, where a compiler gains most."""
        cnn = self.cnn.to(memory_format=torch.channels_last)
        batch = self._batch().to(memory_format=torch.channels_last)
        if self.device.type != "cuda":
            self._add_plain(CNN_PLAIN, cnn, batch)
            return
        fast, how = compiled(cnn, batch)
        self._add_plain(f"{CNN_PLAIN}, {how}", fast, batch)

    def _add_plain(self, name: str, network: Callable[[Tensor], object], batch: Tensor) -> None:
        def forward() -> object:
            with torch.inference_mode():
                return network(batch)

        self.tasks[name] = forward
        self.images[name] = len(batch)

    def _add_published(self) -> None:
        """Every 15th band: the path takes one at a time, so a fair sample is as good as all."""
        classifier = self._classifier("drop", self._ablation(15))
        if not isinstance(classifier, TokenDropViT):
            return
        published = PublishedDrop(classifier)
        count = max(16, self._microbatch // 4)
        pixels = np.concatenate([self.pixels] * (count // len(self.pixels) + 1))[:count]
        images = torch.from_numpy(pixels).to(self.device)
        self.tasks[PUBLISHED] = lambda: published(images)
        self.ablations[PUBLISHED] = count * len(classifier.views)
        self.images[PUBLISHED] = self.ablations[PUBLISHED] / len(self._ablation(1))

    def pace(self, name: str, seconds: float, rate: float) -> Pace:
        """The pace of a contender from its time and the machine's matmul rate."""
        counts, images = self.operations.get(name), self.images[name]
        return Pace(
            name=name,
            dtype=str(self.dtype).removeprefix("torch."),
            images_a_second=self.images[name] / seconds,
            ablations_a_second=self.ablations.get(name, 0.0) / seconds,
            full_passes=counts and counts.full_passes,
            share_nominal=counts and images * counts.nominal / seconds / rate,
            share_executed=counts and images * counts.executed / seconds / rate,
            peak_gpu_memory_mib=peak_gpu_memory_mib(self.tasks[name], self.device),
        )

    def stages(self) -> dict[str, float]:
        """Seconds of each stage of the votes pass at the first stride."""
        smoothed, pixels = self.voting[0]
        if not isinstance(smoothed.classifier, TokenDropViT):
            return {}
        return stage_seconds(smoothed, pixels, self.device)


class PublishedDrop:
    """The published way of dropping tokens, written as plainly as possible: a baseline.

    As in smoothed-vit (Salman et al. 2022), from its description: float32; for one band at a time,
    the whole batch of images is masked, all of their patches are embedded, the band's tokens are
    selected, and each of them goes through every block.

    Args:
        classifier: Holds the network, the ablation and the normalization, in evaluation mode; a
            Vision Transformer with a class token.
    """

    def __init__(self, classifier: TokenDropViT) -> None:
        self.classifier = classifier

    @torch.inference_mode()
    def __call__(self, images_bhwc: Tensor) -> Tensor:
        """The class of each ablation of each image; int64 (B, V).

        Args:
            images_bhwc: uint8 (B, H, W, 3), on the classifier's device.
        """
        views = range(len(self.classifier.views))
        images = images_bhwc.permute(0, 3, 1, 2).float() / 255
        return torch.stack([self._logits(images, view).argmax(1) for view in views], dim=1)

    def _logits(self, images: Tensor, view: int) -> Tensor:
        classifier = self.classifier
        network: Any = classifier.network
        scale = classifier.views.pixel_scale
        visible = classifier.views.visible(view).repeat(scale, axis=0).repeat(scale, axis=1)
        shown = torch.from_numpy(visible).to(images.device)
        masked = (images * shown - classifier.mean) / classifier.std
        ty, tx = classifier.token_px
        embedded = network._pos_embed(network.patch_embed(masked))
        prefix = network.num_prefix_tokens
        kept = functional.max_pool2d(shown[None].float(), (ty, tx), (ty, tx)).flatten() > 0
        x = torch.cat([embedded[:, :prefix], embedded[:, prefix:][:, kept]], dim=1)
        logits: Tensor = network.forward_head(network.norm(network.blocks(x)))
        return logits


def compiled(
    network: nn.Module, batch: Tensor, compiler: Callable[..., Any] = torch.compile
) -> tuple[Callable[[Tensor], Any], str]:
    """Compile a network for one shape, and name the outcome; the network itself if that fails.

    Args:
        network: In evaluation mode, on its device.
        batch: Of the shape and type that it will be given.
        compiler: As ``torch.compile``.
    """
    try:
        fast = compiler(network, dynamic=False)
        # Nothing is compiled before the first call.
        with torch.inference_mode():
            fast(batch)
    except Exception as error:  # a machine without a compiler may raise anything
        return network, f"not compiled ({type(error).__name__})"
    return fast, "compiled"
