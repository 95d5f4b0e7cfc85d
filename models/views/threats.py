"""Threats: the rectangles an attacker may rewrite, as one value with one text.

Lengths are pixels of the attacker's grid, or of the picture as it is decoded (``source``).
"""

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from math import isqrt

from models.views.family import Patch, ViewFamily

_TEXT = re.compile(
    r"""(?:(?P<count>\d+)\s*(?:of|\*)\s*)?     # 2 of, 2of, 2*
        (?P<source>source\s*:\s*)?             # source:50
        (?:(?P<percent>\d+(?:\.\d+)?)\s*%      # 2%: a square of that share of the area
        | (?P<side>\d+)                        # 32: a square
        | (?P<height>\d+)x(?P<width>\d+)       # 16x48
        | area\s*(?:<=|:)\s*(?P<area>\d+))     # area<=1024, area:1024 where < would redirect
    """,
    re.VERBOSE,
)
_EXAMPLES = (
    "32 (a square), 2% (a square), 16x48 (height x width), 2of32 (two squares), area:1024, or "
    "source:50 (pixels of the picture as it is delivered)"
)


@dataclass(frozen=True)
class Threat:
    """The pixels an attacker may rewrite: rectangles, anywhere wholly inside the image.

    ``str`` of a threat is its one text, in tables, files and flags alike, and ``parse`` its
    inverse: ``32x32``, ``16x48``, ``2%``, ``2 of 32x32``, ``area<=1024``, ``source:50``.

    Attributes:
        patch: Height and width of each rectangle; None where any shape is allowed.
        area: Where any shape is allowed, the most pixels of the rectangle.
        count: Number of rectangles, which may overlap.
        percent: Where the rectangle is a square of that share of the area, the share in per cent.
        source: True where all of it is about the decoded picture, before it is resized and cropped;
            what that is on the grid depends on the picture's size.

    Raises:
        ValueError: Not exactly one of ``patch``, ``area`` and ``percent``, a number below 1, or
            several rectangles of any shape.
    """

    patch: Patch | None = None
    area: int | None = None
    count: int = 1
    percent: Decimal | None = None
    source: bool = False

    def __post_init__(self) -> None:
        if [self.patch, self.area, self.percent].count(None) != 2:
            raise ValueError("a threat is either a patch or an area: give one of them")
        if self.percent is not None and not 0 < self.percent <= 100:
            raise ValueError(f"patch {self}: the share must lie above 0 % and up to 100 %")
        if min(self.patch or (self.area or 1,)) < 1 or self.count < 1 or self.area == 0:
            raise ValueError(f"patch {self}: every number must be at least 1")
        if self.source and self.area is not None:
            raise ValueError(
                f"patch {self}: rectangles of any shape are about the grid; give a shape, such as "
                "source:50"
            )
        if self.area is not None and self.count > 1:
            raise ValueError(
                f"patch {self}: several rectangles of any shape are not supported; give them a "
                "shape, such as 2of32"
            )

    @classmethod
    def square(cls, side: int) -> "Threat":
        """One square of ``side`` x ``side`` pixels."""
        return cls(Patch.square(side))

    @classmethod
    def of(cls, what: "Threat | Patch") -> "Threat":
        """A patch as the threat of one such rectangle; a threat as it is."""
        return what if isinstance(what, Threat) else cls(what)

    @classmethod
    def parse(cls, text: str | int) -> "Threat":
        """The threat that a text or a side means.

        Raises:
            ValueError: The text means nothing.
        """
        found = _TEXT.fullmatch(str(text).strip())
        if found is None:
            raise ValueError(f"patch {text!r}: write {_EXAMPLES}")
        given = {name: value for name, value in found.groupdict().items() if value}
        count, source = int(given.get("count", 1)), "source" in given
        if "area" in given:
            return cls(area=int(given["area"]), count=count, source=source)
        if "percent" in given:
            return cls(percent=Decimal(given["percent"]), count=count, source=source)
        height = int(given.get("side", given.get("height", 0)))
        return cls(Patch(height, int(given.get("width", height))), count=count, source=source)

    def __str__(self) -> str:
        shape = f"area<={self.area}"
        if self.percent is not None:
            shape = f"{self.percent.normalize():f}%"
        if self.patch is not None:
            height, width = self.patch
            shape = str(height) if self.source and height == width else f"{height}x{width}"
        shape = f"source:{shape}" if self.source else shape
        return shape if self.count == 1 else f"{self.count} of {shape}"

    @property
    def side(self) -> int | None:
        """Side of the patch in pixels of the grid where the threat is one square; else None."""
        if (
            self.patch is None
            or self.source
            or self.count > 1
            or self.patch.height != self.patch.width
        ):
            return None
        return self.patch.height

    @property
    def pixels(self) -> int:
        """The most pixels that the rectangles have together."""
        if self.patch is None:
            return self.area or 0
        return self.count * self.patch.height * self.patch.width

    @property
    def order(self) -> tuple[int, ...]:
        """Sort key: squares by side, rectangles, areas, those of the source, several patches."""
        patch = self.patch or Patch(0, 0)
        kind = 3 if self.source else 0 if self.side is not None else 1 if self.patch else 2
        size = self.area or int(10_000 * (self.percent or 0))
        return self.count, kind, patch.height * patch.width, patch.height, size

    def of_picture(self, height: int, width: int) -> "Threat":
        """The same threat in pixels, where it is a share of height x width; else itself.

        The square is the smallest with at least that share: its side is ceil(sqrt(share H W)).
        """
        if self.percent is None:
            return self
        share = Fraction(self.percent) / 100
        area = -(-share.numerator * height * width // share.denominator)
        return replace(self, percent=None, patch=Patch.square(isqrt(area - 1) + 1))

    def on(self, views: ViewFamily) -> "Threat":
        """The same threat in pixels of the grid; one on the source as it is."""
        return self if self.source else self.of_picture(views.height, views.width)

    def patches(self, views: ViewFamily) -> tuple[Patch, ...]:
        """The rectangles that matter: each allowed one lies within one of these, in the image.

        An h x w rectangle inside the image lies within some h' x w' one inside it for all
        h <= h' <= H, w <= w' <= W (shift it away from the border), so of an area budget only the
        widest rectangle of each height matters, and of those of equal width the highest.

        Raises:
            ValueError: The patch does not fit the image, or is one on the source.
        """
        if self.source:
            raise ValueError(
                f"patch {self}: which pixels of the grid it changes depends on the size of each "
                "picture, and this question is about the grid; give a patch on the grid, such as 32"
            )
        patch = self.on(views).patch
        if patch is not None:
            views.check_patch(patch)
            return (patch,)
        area = self.area or 0
        widest: dict[int, int] = {}
        for height in range(1, min(views.height, area) + 1):
            widest[min(views.width, area // height)] = height
        return tuple(Patch(height, width) for width, height in widest.items())

    def holds(self, other: "Threat", views: ViewFamily) -> bool:
        """Tell whether every rectangle of another threat lies within one of this one."""
        return other.count <= self.count and all(
            any(
                inner.height <= outer.height and inner.width <= outer.width
                for outer in self.patches(views)
            )
            for inner in other.patches(views)
        )
