"""What a finished run looks like on a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Print accuracies with their 95 % intervals, one line a patch size and rule."""
    images = summary["images"]
    table = Table(
        title=f"{images} images, {summary['ablations']} ablations each",
        title_justify="left",
        caption=_caption(summary),
        caption_justify="left",
    )
    table.add_column("patch", justify="right")
    table.add_column("what")
    table.add_column("accuracy", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_column("images", justify="right")
    for name in ("plain", "smoothed"):
        table.add_row("none", name, *_cells(summary[f"{name}_accuracy"]))
    mean = summary["mean_ablation_accuracy"]
    table.add_row("none", "mean over ablations", _percent(mean), "", "", end_section=True)
    entries = sorted(summary["certified_accuracy"], key=lambda e: (e["patch_px"], e["rule"]))
    for entry in entries:
        side = entry["patch_px"]
        rule = entry["rule"]
        if entry["confidence"] is not None:
            # Never let a probabilistic certificate pass for a proof.
            rule += f" (confidence {100 * entry['confidence']:g} % an image)"
        table.add_row(f"{side}x{side} px", f"certified, {rule}", *_cells(entry))
    console.print(table)


def _caption(summary: dict[str, Any]) -> str:
    parts = []
    if summary["images_with_error"]:
        parts.append(f"{summary['images_with_error']} images with errors count as wrong")
    if summary["images_without_label"]:
        parts.append(f"{summary['images_without_label']} images without a label are left out")
    return "; ".join(parts)


def _cells(proportion: dict[str, Any]) -> tuple[str, str, str]:
    low, high = proportion["low"], proportion["high"]
    interval = "" if low is None else f"{100 * low:.1f} - {100 * high:.1f} %"
    return _percent(proportion["value"]), interval, f"{proportion['hits']}/{proportion['of']}"


def _percent(value: float | None) -> str:
    return "no labels" if value is None else f"{100 * value:.1f} %"
