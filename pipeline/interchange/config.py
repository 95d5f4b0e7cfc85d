"""Options of export and import; imports neither Arrow nor torch."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from models.views.family import ViewsKind
from pipeline.config import ConfigError

VotesFormat = Literal["parquet"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Contents and place of an export.

    Attributes:
        to: Folder to write, local or s3://; it must not be there yet.
        patch: What the attacker may do, as in certify: 32, 16x48, area:1024, 2of32 [what the run
            was certified for, else 23 32 39, or 2 4 5 on the CIFAR-10 grid].
        rule: Certificates, as in certify [where --patch is left out, those that the run was
            certified by, as they assume it; else exact and uniform, of masks two-location and
            one-location, of a --randomized run randomized].
        votes: Write the votes too, in a file that `patchcert import` reads.
        overwrite: Replace an earlier export; a folder that holds anything else is refused.
        out: Folder of all results, local or s3://.
    """

    to: str
    patch: tuple[int | str, ...] | None = None
    rule: tuple[str, ...] | None = None
    votes: VotesFormat | None = None
    overwrite: bool = False
    out: str = "out"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Description of the votes. Files of `patchcert export --votes` hold it themselves.

    Attributes:
        views: What a view shows or hides: it shows one column, row or block and hides the rest, or
            it hides one mask (mask) or up to two (mask-pair) and shows the rest.
        size: Width of a band, or side of a block or mask, in pixels [of masks what --covers and
            --masks need].
        stride: Distance of neighbouring offsets in pixels [1; of masks of a given size, that
            size].
        covers: The largest patch for which masks are cut, in pixels: 32, or 16x48 (height x
            width), or area:500 (any rectangle of it).
        masks: Masks an axis, at most: 6, or 4x8 (down x across) [6].
        wrap: Masks of a given size go on round the edges of the image.
        positions: random:N, where the votes are of this program's N fixed random positions.
        seed: Which random positions [0].
        image_size: Image on which patches are measured, in pixels: a side, or HEIGHTxWIDTH.
        model_size: The model's input, where it is an exact enlargement of that image, such as 224
            for 32 [the image's].
        num_classes: Length of the logits.
        classes: Classes that could be voted for, if not all: numbers or wnids, comma-separated, or
            a file of them.
        model: Name of the model that voted, for tables [imported].
    """

    views: Annotated[ViewsKind | None, Parameter(name=["--views", "--ablation"])] = None
    size: int | None = None
    stride: int | None = None
    covers: str | None = None
    masks: str | None = None
    wrap: bool = False
    positions: str | None = None
    seed: int | None = None
    image_size: str | None = None
    model_size: str | None = None
    num_classes: int | None = None
    classes: str | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        for name in ("size", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value}: it must be at least 1 px")
        for flag, text in (("image-size", self.image_size), ("model-size", self.model_size)):
            if text is not None:
                sides_of(flag, text)
        if self.model_size is not None and self.image_size is None:
            raise ConfigError("--model-size: it is an enlargement of --image-size; give both")
        if self.model == "":
            raise ConfigError("--model is empty: give a name, or leave it out")
        if self.num_classes is not None and self.num_classes < 2:
            raise ConfigError(
                f"--num-classes {self.num_classes}: a prediction needs a rival, so at least 2"
            )

    @property
    def of_masks(self) -> dict[str, Any]:
        """The options that only masks have, where they are given."""
        options = {"covers": self.covers, "masks": self.masks, "wrap": self.wrap or None}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def random(self) -> int | None:
        """N in ``--positions random:N``.

        Raises:
            ConfigError: The text has another form.
        """
        if self.positions is None:
            return None
        kind, _, count = self.positions.partition(":")
        if kind != "random" or not count.isdecimal() or not int(count):
            raise ConfigError(
                f"--positions {self.positions}: write random:N, such as random:500; votes at other "
                "positions than a stride's or a random family of this program cannot be certified"
            )
        return int(count)


def sides_of(flag: str, text: str) -> tuple[int, int]:
    """Parse height and width in pixels, written as a side or as HEIGHTxWIDTH.

    Raises:
        ConfigError: The text has another form.
    """
    lengths = text.split("x")
    if len(lengths) > 2 or not all(one.isdecimal() and int(one) for one in lengths):
        raise ConfigError(f"--{flag} {text}: give a side in pixels, or HEIGHTxWIDTH")
    return int(lengths[0]), int(lengths[-1])
