"""``patchcert show``: one picture of one image's views."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from models.networks.systems import TokenMode
from models.preprocess import PresetName
from models.views.family import ViewsKind
from pipeline import storage
from pipeline.config import ConfigError, Device, VotesConfig, at_least
from pipeline.config.flags import Advanced
from pipeline.report.one_image import make_scene


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ShowConfig:
    """Image, views and patch that are drawn.

    Attributes:
        image: Image file (JPEG, PNG or WebP).
        weights: Weight file; with it the picture shows votes, prediction, margin and rival.
        model: timm name of the network; default: as the weight file says.
        num_classes: Length of the logits; default: as the weight file or the model says.
        classes: Classes that the logits are restricted to: numbers or wnids, comma-separated, or
            a file of them.
        views: What a view shows or hides: it shows one column, row or block and hides the rest, or
            it hides one mask (mask) or up to two (mask-pair) and shows the rest [the weights'
            own, else column].
        size: Width of a band, or side of a block or mask, in pixels [the weights' own, else 19,
            or 4 on the CIFAR-10 grid; of masks what --covers and --masks need].
        stride: Distance of neighbouring offsets in pixels [the weights' own, else 1; of masks of a
            given size, that size].
        covers: The largest patch for which masks are cut, in pixels: 32, or 16x48 (height x width).
        masks: Masks an axis, at most: 6, or 4x8 (down x across); 1x6 hides full-height bands [6].
        wrap: Let masks of a given size go on round the edges of the image.
        positions: random:N draws N fixed, public positions instead of every stride.
        seed: Which random positions.
        tokens: Hidden tokens are dropped, or enter black [the weights' own, else drop].
        preprocess: Preset of resize and crop [the weights' own, else imagenet].
        resize: Shorter side in pixels before the crop, or none for images of the exact size.
        crop: Centre crop in pixels: a side, or HEIGHTxWIDTH.
        patch: Side of the attacker's patch in pixels [32, or 4 on the CIFAR-10 grid; of masks the
            patch that they cover].
        device: Where the network runs.
        out: Where the picture goes (.png).
    """

    image: str
    weights: str | None = None
    model: str | None = None
    num_classes: Advanced[int | None] = None
    classes: str | None = None
    views: Annotated[ViewsKind | None, Parameter(name=["--views", "--ablation"])] = None
    size: int | None = None
    stride: int | None = None
    covers: str | None = None
    masks: str | None = None
    wrap: Advanced[bool] = False
    positions: Advanced[str | None] = None
    seed: Advanced[int] = 0
    tokens: Advanced[TokenMode | None] = None
    preprocess: Advanced[PresetName | None] = None
    resize: Advanced[str | None] = None
    crop: Advanced[str | None] = None
    patch: int | None = None
    device: Device = "auto"
    out: str = "picture.png"

    def __post_init__(self) -> None:
        if not self.out.endswith(".png"):
            raise ConfigError(f"--out {self.out}: the picture is a PNG; end the name in .png")
        at_least(1, patch=self.patch)
        self.request()

    def request(self) -> VotesConfig:
        """The same as a request for votes, whose checks hold here too."""
        names = {field.name for field in dataclasses.fields(VotesConfig)}
        common = {k: v for k, v in vars(self).items() if k in names and v is not None}
        return VotesConfig(**{"weights": "", **common}, data=self.image)


def show(*, what: ShowConfig) -> int:
    """Draw an image, some of its views with their tokens, and the worst patch.

    Raises:
        ConfigError: The image cannot be read, or a length does not fit it.
        WeightsError, UnknownModelError, UnsupportedModelError: As for votes.
    """
    from pipeline.report.one_image_plot import draw_scene  # noqa: PLC0415  (matplotlib: --help must not wait)

    scene = make_scene(what.request(), what.patch)
    storage.write_atomically(what.out, draw_scene(scene))
    print(scene.caption)
    print(f"picture: {what.out}")
    return 0
