"""Threats: the rectangles an attacker may rewrite, as one value with one text.

All lengths are pixels of the attacker's grid.
"""

import re
from dataclasses import dataclass

from models.views.family import Patch, ViewFamily

_TEXT = re.compile(
    r"""(?:(?P<count>\d+)\s*(?:of|\*)\s*)?     # 2 of, 2of, 2*
        (?:(?P<side>\d+)                       # 32: a square
        | (?P<height>\d+)x(?P<width>\d+)       # 16x48
        | area\s*(?:<=|:)\s*(?P<area>\d+))     # area<=1024, area:1024 where < would redirect
    """,
    re.VERBOSE,
)
_EXAMPLES = "32 (a square), 16x48 (height x width), 2of32 (two squares) or area:1024"


@dataclass(frozen=True)
class Threat:
    """The pixels an attacker may rewrite: rectangles, anywhere wholly inside the image.

    ``str`` of a threat is its one text, in tables, files and flags alike, and ``parse`` its
    inverse: ``32x32``, ``16x48``, ``2 of 32x32``, ``area<=1024``.

    Attributes:
        patch: Height and width of each rectangle; None where any shape is allowed.
        area: Where any shape is allowed, the most pixels of the rectangle.
        count: Number of rectangles, which may overlap.

    Raises:
        ValueError: Not exactly one of ``patch`` and ``area``, a number below 1, or several
            rectangles of any shape.
    """

    patch: Patch | None = None
    area: int | None = None
    count: int = 1

    def __post_init__(self) -> None:
        if (self.patch is None) == (self.area is None):
            raise ValueError("a threat is either a patch or an area: give one of them")
        if min(self.patch or (self.area or 0,)) < 1 or self.count < 1:
            raise ValueError(f"patch {self}: every number must be at least 1")
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
        number = {name: int(value) for name, value in found.groupdict().items() if value}
        count = number.get("count", 1)
        if "area" in number:
            return cls(area=number["area"], count=count)
        height = number.get("side", number.get("height", 0))
        return cls(Patch(height, number.get("width", height)), count=count)

    def __str__(self) -> str:
        shape = f"area<={self.area}"
        if self.patch is not None:
            shape = f"{self.patch.height}x{self.patch.width}"
        return shape if self.count == 1 else f"{self.count} of {shape}"

    @property
    def side(self) -> int | None:
        """Side of the patch in pixels where the threat is one square; else None."""
        if self.patch is None or self.count > 1 or self.patch.height != self.patch.width:
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
        """Sort key: squares by side, rectangles, areas, then several patches."""
        patch = self.patch or Patch(0, 0)
        kind = 0 if self.side is not None else 1 if self.patch is not None else 2
        return self.count, kind, patch.height * patch.width, patch.height, self.area or 0

    def patches(self, views: ViewFamily) -> tuple[Patch, ...]:
        """The rectangles that matter: each allowed one lies within one of these, in the image.

        An h x w rectangle inside the image lies within some h' x w' one inside it for all
        h <= h' <= H, w <= w' <= W (shift it away from the border), so of an area budget only the
        widest rectangle of each height matters, and of those of equal width the highest.

        Raises:
            ValueError: The patch does not fit the image.
        """
        if self.patch is not None:
            views.check_patch(self.patch)
            return (self.patch,)
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
