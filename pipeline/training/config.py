"""Options of training: frozen, self-validating, the source of every flag.

Imports neither torch nor ray, like ``pipeline.config``.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from models.networks.systems import TokenMode
from models.preprocess import PresetName
from models.views.family import ViewsKind
from pipeline.config import ConfigError, Device, Dtype, at_least
from pipeline.config.flags import Advanced

Augmentation = Literal["none", "crop", "rand", "trivial"]
Schedule = Literal["cosine", "step", "constant"]
OptimizerName = Literal["adamw", "sgd", "muon"]
Mix = Literal["none", "mixup", "cutmix"]
Precision = Literal["float16", "float32"]
Selection = Literal["last", "best"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the weights.

    Attributes:
        data: Training images with labels, as for `run`; never the test set.
        init: Weight file to start from, local or s3://, or timm:NAME; a head of another length is
            replaced.
        model: timm name of the network; default: as the weight file says.
        num_classes: Length of the logits [the weights' own, else as many as the labels name].
        limit: Only the first so many images.
        image_column: Parquet column of encoded images.
        label_column: Parquet column of class numbers.
        label_map: File that gives class folders, or labels as the data have them, their class
            numbers (JSON, TSV or CSV).
        views: What a view shows or hides: it shows one column, row or block and hides the rest, or
            it hides one mask (mask) or up to two (mask-pair) and shows the rest [the weights'
            own, else column].
        size: Width of a band, or side of a block or mask, in pixels [the weights' own, else 19,
            or 4 on the CIFAR-10 grid; of masks what --covers and --masks need].
        stride: Distance of neighbouring offsets in pixels [the weights' own, else 1; of masks of a
            given size, that size].
        covers: The largest patch for which masks are cut, in pixels: 32, or 16x48 (height x
            width), or area:500 (any rectangle of it); the estimates assume no larger one.
        masks: Masks an axis, at most: 6, or 4x8 (down x across) [6].
        wrap: Let masks of a given size go on round the edges of the image.
        tokens: Hidden tokens are dropped, or enter black [the weights' own, else drop].
        preprocess: Preset of size and normalization [the weights' own, else the model's].
        pixel_scale: Enlargement of the image for the network, in whole pixels; smaller than the
            preset's it makes fewer tokens, and every step and vote cheaper.
        epochs: Passes over the training images.
        batch: Images a step, over all workers.
        views_per_image: Views of each image a step, spread evenly over the family.
        hardest_of: Views of each image that a pass without gradients looks at first, spread evenly
            over the family: a step learns from those of the largest loss (after Greedy Cutout,
            arXiv 2306.12610) [as many as --views-per-image: no such pass].
        optimizer: AdamW; SGD with momentum 0.9; or Muon, which steps matrices along the
            orthogonalized momentum of their gradients, and the rest by AdamW at half its rate.
        lr: Peak learning rate of a batch.
        schedule: Cosine to zero; a tenth at one and two thirds of the epochs; or constant, to be
            continued from the average by another training.
        warmup: Steps of linear warm-up.
        weight_decay: Of matrices; vectors have none.
        layer_decay: Learning rate of a layer, relative to the one above it; 1: all alike.
        clip: Largest norm of a step's gradient.
        drop_path: Rate of stochastic depth.
        token_dropout: Share of the tokens of the mean view left out of every view at random in the
            first three quarters of the steps, which makes these as much cheaper (after
            PatchDropout, arXiv 2208.07220); the last quarter sees all, as the votes do.
        label_smoothing: Share of the target spread over all classes.
        margin: Lead of the true class over the next, as a share of the votes, that the views of
            an image in a step are to reach together; what is missing adds to the loss (0: nothing
            does). A patch that touches D of V views needs more than 2D/V.
        margin_weight: Weight of what is missing, beside the cross-entropy.
        augment: none, crop (and flip), rand (RandAugment after it), trivial (TrivialAugment).
        mix: Blend pairs of images and labels: mixup or cutmix.
        mix_alpha: Parameter of the blend's Beta distribution.
        teacher: Weight file of a network that sees whole images, or self: this network's average.
        teacher_weight: Share of the loss that follows the teacher.
        average: Decay of the weights' moving average, which is the result; 0 for none.
        validation: Images held out of training, the same share of every class.
        estimate: How many of them get a certified estimate after each epoch.
        select: Weights of the last epoch, or of the one certified best on the held-out images.
        seed: Of the split, the order, the augmentation and the ablations.
        dtype: Arithmetic of the forward pass [bfloat16 on CUDA, float32 on CPU].
        save_as: Type of the written weights.
    """

    data: str
    init: str
    model: str | None = None
    num_classes: Advanced[int | None] = None
    limit: int | None = None
    image_column: Advanced[str | None] = None
    label_column: Advanced[str | None] = None
    label_map: Advanced[str | None] = None
    views: Annotated[ViewsKind | None, Parameter(name=["--views", "--ablation"])] = None
    size: int | None = None
    stride: int | None = None
    covers: str | None = None
    masks: str | None = None
    wrap: Advanced[bool] = False
    tokens: Advanced[TokenMode | None] = None
    preprocess: Advanced[PresetName | None] = None
    pixel_scale: Advanced[int | None] = None
    epochs: int = 30
    batch: int = 128
    views_per_image: int = 1
    hardest_of: Advanced[int | None] = None
    optimizer: Advanced[OptimizerName] = "adamw"
    lr: float = 3e-4
    schedule: Advanced[Schedule] = "cosine"
    warmup: Advanced[int] = 200
    weight_decay: Advanced[float] = 0.05
    layer_decay: Advanced[float] = 1.0
    clip: Advanced[float] = 1.0
    drop_path: Advanced[float] = 0.0
    token_dropout: Advanced[float] = 0.0
    label_smoothing: Advanced[float] = 0.05
    margin: Advanced[float] = 0.0
    margin_weight: Advanced[float] = 4.0
    augment: Augmentation = "crop"
    mix: Advanced[Mix] = "none"
    mix_alpha: Advanced[float] = 0.8
    teacher: Advanced[str | None] = None
    teacher_weight: Advanced[float] = 0.5
    average: Advanced[float] = 0.998
    validation: Advanced[int] = 1000
    estimate: Advanced[int] = 200
    select: Advanced[Selection] = "last"
    seed: Advanced[int] = 0
    dtype: Advanced[Dtype | None] = None
    save_as: Advanced[Precision] = "float16"

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("--data is empty: give a path, a pattern or an s3:// address")
        at_least(
            1,
            limit=self.limit,
            size=self.size,
            stride=self.stride,
            pixel_scale=self.pixel_scale,
            epochs=self.epochs,
            batch=self.batch,
            views_per_image=self.views_per_image,
            hardest_of=self.hardest_of,
        )
        at_least(2, num_classes=self.num_classes)
        below_one = ("drop_path", "token_dropout", "label_smoothing", "margin", "average")
        counts = ("warmup", "weight_decay", "validation", "estimate", "seed", "teacher_weight")
        at_least(0, **{name: getattr(self, name) for name in (*counts, *below_one)})
        for name in ("lr", "clip", "mix_alpha", "layer_decay", "margin_weight"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{_flag(name)} {getattr(self, name)}: it must be above 0")
        for name in below_one:
            if getattr(self, name) >= 1:
                raise ConfigError(f"{_flag(name)} {getattr(self, name)}: it must be below 1")
        for name in ("teacher_weight", "layer_decay"):
            if getattr(self, name) > 1:
                raise ConfigError(f"{_flag(name)} {getattr(self, name)}: it must be at most 1")
        if self.margin and self.views_per_image == 1:
            raise ConfigError(
                "--margin: one view has no vote to lead; give --views-per-image 2 or more"
            )
        if self.hardest_of is not None and self.hardest_of <= self.views_per_image:
            raise ConfigError(
                f"--hardest-of {self.hardest_of}: all of them are in the step already; give more "
                f"than --views-per-image {self.views_per_image}"
            )
        if self.hardest_of is not None and self.margin:
            raise ConfigError(
                "--margin: the hardest views of an image are no sample of its vote; leave "
                "--hardest-of out"
            )
        if self.teacher == "self" and not self.average:
            raise ConfigError("--teacher self: the teacher is the average; give --average")
        if self.select == "best" and not (self.validation and self.estimate):
            raise ConfigError("--select best: it needs --validation and --estimate above 0")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainingPlace:
    """Place and outputs of a training; none of it decides what is learned.

    Attributes:
        out: Folder of the weights, the checkpoint and the curves, local or s3://.
        device: Where the network runs.
        workers: Processes that share each batch [one a GPU; on CPUs one].
        threads: CPU threads a worker [all CPUs, shared out].
        no_ray: Plain torch on this machine alone, with all encoded images in memory.
        checkpoint_minutes: Save this often within an epoch too (0: after epochs only).
        overwrite: Start again where --out holds a checkpoint.
        mlflow: Tracking server; default: an sqlite file in --out; none logs nothing.
        experiment: MLflow experiment.
        verbose: Show Ray's own log.
    """

    out: str = "trained"
    device: Device = "auto"
    workers: int | None = None
    threads: Advanced[int | None] = None
    no_ray: Advanced[bool] = False
    checkpoint_minutes: Advanced[float] = 0.0
    overwrite: bool = False
    mlflow: str | None = None
    experiment: Advanced[str] = "patchcert-training"
    verbose: Advanced[bool] = False

    def __post_init__(self) -> None:
        at_least(1, workers=self.workers, threads=self.threads)
        at_least(0, checkpoint_minutes=self.checkpoint_minutes)
