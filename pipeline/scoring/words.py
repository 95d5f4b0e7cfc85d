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


def threat(entry: Mapping[str, Any], *, stride: bool = False) -> str:
    """Name the threat of an entry, and the stride of its views where ``stride`` asks for it."""
    unit = "" if entry["threat"].endswith("%") else " px"
    return f"{entry['threat']}{unit}" + _stride(entry, named=stride)


def claim(entry: Mapping[str, Any], *, stride: bool = False) -> str:
    """Name what is certified, without its threat; the stride where ``stride`` asks for it."""
    places = "" if entry["top_k"] == 1 else f" top {entry['top_k']}"
    words = f"certified{places}, {entry['rule']}"
    if entry["confidence"] is not None:
        # Never let a probabilistic certificate pass for a proof.
        words += f" (confidence {100 * entry['confidence']:g} % an image)"
    return words + _stride(entry, named=stride)


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
