"""Patches on the source picture: what each of them is on the grid, image by image.

Shape suffix: N images.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from models.resampling import SourceReach
from models.views.family import IntArray, Patch, ViewFamily
from models.views.masks import Masks
from models.views.threats import Threat
from pipeline.certificates.rule import Rule
from pipeline.config import ConfigError
from pipeline.runs.defense import Defense
from pipeline.runs.resolve import default_threats
from pipeline.runs.schema import SIZES, CertifiedEntry
from pipeline.runs.store import StoreError

SIZE_COLUMNS = tuple(field.name for field in SIZES)


class OnGrid(NamedTuple):
    """A threat on the source, for the images on which it comes to the same rectangle.

    Attributes:
        patch: All that the attacker changes on the grid lies within one of these.
        images: Numbers of the images; int64.
    """

    patch: Patch
    images: IntArray


def check_source(defense: Defense, threat: Threat) -> None:
    """Raise ConfigError unless it is known how pictures of any size come to the grid."""
    if defense.preprocess is None:
        raise ConfigError(
            f"--patch {threat}: these votes were imported, and how the pictures were resized is "
            "not known; ask about patches on the grid, such as --patch 32"
        )
    if defense.preprocess.scaled_decode:
        raise ConfigError(
            f"--patch {threat}: these votes were cast with --scaled-decode, where libjpeg shrinks "
            "pictures before they are resized, and no pixel of the delivered picture is known to "
            "end where; vote without it, or ask about patches on the grid, such as --patch 32"
        )


def stand_in(views: ViewFamily, assumed: Threat | None) -> Threat:
    """The threat that a decision is built for where it can be built for no larger one.

    It is the assumed one, else what the masks cover, else one pixel.
    """
    if assumed is not None:
        return assumed
    return default_threats(views)[0] if isinstance(views, Masks) else Threat.square(1)


def certifiable(
    rule: Rule, views: ViewFamily, on_grid: Threat, num_classes: int, k: int, *, early: bool
) -> Threat | None:
    """The threat on the grid to certify against; None where the rule cannot for such a patch.

    Votes cast with early exit answer for the covered patch alone, which holds all smaller ones.

    Args:
        rule: The rule, for its assumed patch.
        views: The views that vote.
        on_grid: The rectangle of some images.
        num_classes: Number of classes.
        k: Places to stay in.
        early: Whether the votes were cast with early exit.
    """
    try:
        if early and isinstance(views, Masks):
            covered = default_threats(views)[0]
            on_grid = covered if covered.holds(on_grid, views) else on_grid
            rule.check_early(views, on_grid)
        rule.check(views, on_grid, num_classes, k)
    except ValueError:
        return None
    return on_grid


def on_grids(voted: pa.Table, threat: Threat, defense: Defense) -> list[OnGrid]:
    """Group images by the rectangle that a threat on the source is on the grid.

    Args:
        voted: Rows of the votes dataset, without an error.
        threat: On the source.
        defense: The defense that voted.

    Raises:
        StoreError: The sizes of the pictures were not kept.
    """
    if any(voted[name].null_count for name in SIZE_COLUMNS):
        raise StoreError(
            f"patch {threat}: the votes were cast by an earlier version, which did not keep the "
            "sizes of the pictures; vote again with --overwrite, or ask about patches on the "
            "grid, such as --patch 32"
        )
    sizes_n2 = np.stack([voted[name].to_numpy() for name in SIZE_COLUMNS], axis=1)
    sizes, of_n = np.unique(sizes_n2, axis=0, return_inverse=True)
    patches = [_on_grid(threat, defense, *map(int, size)) for size in sizes]
    distinct = sorted(set(patches))
    patch_n = np.array([distinct.index(patch) for patch in patches], np.int64)[of_n.ravel()]
    return [OnGrid(patch, np.flatnonzero(patch_n == i)) for i, patch in enumerate(distinct)]


def _on_grid(threat: Threat, defense: Defense, height: int, width: int) -> Patch:
    patch = threat.of_picture(height, width).patch
    assert patch is not None, "a threat on the source has a shape"
    return SourceReach.of(defense.model_input, height, width).extent(patch)


def among(groups: list[OnGrid], chosen: slice) -> Iterator[OnGrid]:
    """The groups of a run of images, numbered from its start; empty ones are left out."""
    for patch, images in groups:
        first, last = np.searchsorted(images, [chosen.start, chosen.stop])
        if first < last:
            yield OnGrid(patch, images[first:last] - chosen.start)


def notes(
    entries: Iterable[CertifiedEntry], shares: Iterable[Threat], grid: tuple[int, int]
) -> list[str]:
    """Say what threats come to on the grid, a line each.

    Args:
        entries: Certified accuracies; those against threats on the source are explained.
        shares: Threats that were asked for; those in per cent of the grid are explained.
        grid: Height and width of the grid, in pixels.
    """
    high, wide = grid
    lines = [
        f"{threat} of the {high}x{wide} px grid: {threat.of_picture(high, wide)} px"
        for threat in shares
        if threat.percent is not None and not threat.source
    ]
    for entry in entries:
        if not entry.get("on_grid"):
            continue
        texts = sorted(entry["on_grid"], key=lambda text: Threat.parse(text).order)
        between = " to ".join(dict.fromkeys([texts[0], texts[-1]]))
        lines.append(
            f"{entry['threat']}, of the picture before its resize: by the picture's size at most "
            f"{between} px of the {high}x{wide} px grid"
        )
        if entry["images_too_large"]:
            lines.append(
                f"{entry['threat']}, {entry['rule']}: {entry['images_too_large']} of "
                f"{sum(entry['on_grid'].values())} images are not certified because the views "
                "leave no decision for a patch so large on the grid; cut masks that cover it "
                f"(--covers {_covering(entry['on_grid'])})"
            )
    return list(dict.fromkeys(lines))


def _covering(texts: Iterable[str]) -> Threat:
    """The rectangle that holds all of some."""
    patches = [patch for text in texts if (patch := Threat.parse(text).patch)]
    heights, widths = zip(*patches, strict=True)
    return Threat(Patch(max(heights), max(widths)))
