"""Shares, claims, runs and locations in words: one function each, for every table, plot and page.

An ``entry`` is one of a summary: a share with its interval, or a certified accuracy.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.runs.manifest import Manifest

NO_LABELS = "no labels"


def percent(share: float | None, digits: int = 1, *, unknown: str = NO_LABELS) -> str:
    """Format a share such as ``71.0 %``; ``unknown`` stands for None."""
    return unknown if share is None else f"{100 * share:.{digits}f} %"


def interval(entry: Mapping[str, Any]) -> str:
    """Format the ends of a share's interval in per cent; empty where nothing was counted."""
    if entry["low"] is None:
        return ""
    return f"{100 * entry['low']:.1f} - {100 * entry['high']:.1f}"


def size(threat: str) -> str:
    """Name a threat with its unit, such as ``32x32 px``; a share is its own."""
    return threat if threat.endswith("%") else f"{threat} px"


def threat(entry: Mapping[str, Any], *, stride: bool = False, share: bool = True) -> str:
    """Name the threat of an entry and its share of the image, such as ``32x32 px, 2.0 %``.

    Args:
        entry: The entry; the share is left out where it does not say it.
        stride: Name the stride of the views, too.
        share: Name the share, which beside another share would be taken for it.
    """
    of_image = image_share(entry, ", {}") if share else ""
    return f"{size(entry['threat'])}{of_image}" + _stride(entry, named=stride)


def image_share(entry: Mapping[str, Any], within: str = "{}") -> str:
    """Name the share of the image that a threat has, within other words; empty where unknown."""
    share = entry.get("image_share")
    # Of a patch on the source, the share of the grid would be taken for one of the picture.
    known = share is not None and "source:" not in entry["threat"]
    return within.format(percent(share)) if known else ""


def claim(entry: Mapping[str, Any], *, stride: bool = False, what: str = "certified") -> str:
    """Name what is certified and what that assumes, without its threat.

    Args:
        entry: A claim.
        stride: Name the stride of the views, too.
        what: certified, or clean for the rule's answer without a patch.
    """
    places = "" if entry["top_k"] == 1 else f" top {entry['top_k']}"
    words = f"{what}{places}, {entry['rule']}"
    if entry["confidence"] is not None:
        # Never let a probabilistic certificate pass for a proof.
        words += f" (confidence {100 * entry['confidence']:g} % an image)"
    if entry.get("tau") is not None:
        words += f", tau {entry['tau']:g}"
    # Never let a decision that knows the patch pass for one that need not.
    return words + _stride(entry, named=stride) + assumption(entry, ", {}")


OF_ITS_PATCH = ", assumes a patch of at most that size"
"""What a decision assumes, after the name of claims for several patches."""


def series(entry: Mapping[str, Any], *, stride: bool = False) -> str:
    """Name what entries for several patches have in common, as ``claim``."""
    if entry["assumes"] is None or other_size(entry):
        return claim(entry, stride=stride)
    return f"{claim({**entry, 'assumes': None}, stride=stride)}{OF_ITS_PATCH}"


def other_size(entry: Mapping[str, Any]) -> str | None:
    """The patch that a claim assumes, where it is another than the one it is about."""
    assumed: str | None = entry["assumes"]
    return None if assumed == entry["threat"] else assumed


def assumption(entry: Mapping[str, Any], within: str = "{}") -> str:
    """Say what size of patch a claim's decision assumes, within other words; empty for none."""
    assumed = entry.get("assumes")
    return "" if assumed is None else within.format(f"assumes a patch of at most {size(assumed)}")


def alerts(entry: Mapping[str, Any], within: str = "{}") -> str:
    """Count the alerts of a rule that raises them, within other words; empty for another rule."""
    count = entry.get("alerts")
    return "" if count is None else within.format(f"{count:,} alert{'' if count == 1 else 's'}")


def views_asked(summary: Mapping[str, Any]) -> str:
    """Say how many views were asked of an image, ``31.2 of 45 (69 %)``; empty where all were."""
    asked = summary.get("views_asked")
    if asked is None:
        return ""
    return f"{asked:.1f} of {summary['ablations']} ({100 * asked / summary['ablations']:.0f} %)"


def views(summary: Mapping[str, Any]) -> str:
    """Name the views of a summary in the plural: ablations, or those that hide."""
    return "views" if summary.get("hides") else "ablations"


def _stride(entry: Mapping[str, Any], *, named: bool) -> str:
    return f", stride {entry['stride']}" if named and entry["stride"] else ""


def positions(manifest: Manifest) -> str:
    """Say which views of their family a run has."""
    if manifest.defense.voting.draws is not None:
        return f"{manifest.defense.voting.draws} positions drawn for each image"
    return manifest.defense.views.describe().places


def run(manifest: Manifest) -> str:
    """Name a run's network and views."""
    views = manifest.defense.views.describe().views
    return f"{manifest.defense.network.name}, {views}, {positions(manifest)}"


def location(y: int | None, x: int | None) -> str:
    """Name the upper left corner of a patch, or of what a view shows.

    Args:
        y: Upper edge in pixels; None where it does not matter.
        x: Left edge in pixels; None where it does not matter.
    """
    edges = {"x": x, "y": y}
    return ", ".join(f"{axis} = {edge}" for axis, edge in edges.items() if edge is not None)
