"""``patchcert show``: one picture of one image's ablations."""

import dataclasses
from dataclasses import dataclass

from cyclopts import Parameter

from models.networks.systems import TokenMode
from models.preprocess import PresetName
from models.views.ablations import AblationKind
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
        ablation: Shape of what an ablation shows [the weights' own, else column].
        size: Width of a band in pixels [the weights' own, else 19, or 4 on the CIFAR-10 grid].
        stride: Distance of neighbouring bands in pixels [the weights' own, else 1].
        positions: random:N draws N fixed, public positions instead of every stride.
        seed: Which random positions.
        tokens: Hidden tokens are dropped, or enter black [the weights' own, else drop].
        preprocess: Preset of resize and crop [the weights' own, else imagenet].
        resize: Shorter side in pixels before the crop, or none for images of the exact size.
        crop: Centre crop in pixels: a side, or HEIGHTxWIDTH.
        patch: Side of the attacker's patch in pixels [32, or 4 on the CIFAR-10 grid].
        device: Where the network runs.
        out: Where the picture goes (.png).
    """

    image: str
    weights: str | None = None
    model: str | None = None
    num_classes: Advanced[int | None] = None
    classes: str | None = None
    ablation: AblationKind | None = None
    size: int | None = None
    stride: int | None = None
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
    """Draw an image, some of its ablations with their tokens, and the worst patch.

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
