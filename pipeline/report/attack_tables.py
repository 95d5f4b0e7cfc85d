"""What an attack looks like on a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table


def print_attack(summary: dict[str, Any], console: Console) -> None:
    """Print the accuracies that enclose the true one, then what the patches did."""
    side, attacked = summary["patch_px"], summary["attacked"]
    console.print(_accuracies(summary))
    table = Table(
        title=f"patches of {side}x{side} px, each voted on by the whole pipeline",
        title_justify="left",
        caption="Flipped: votes of ablations that show the patch, on average. Untouched: votes of "
        "the others that changed.",
        caption_justify="left",
    )
    table.add_column("images")
    for heading in ("attacked", "changed", "patches", "flipped", "untouched"):
        table.add_column(heading, justify="right")
    for name, group in attacked.items():
        flipped = ""
        if group["patches"]:
            flipped = f"{group['mean_flipped']:.1f} of {group['mean_touched']:.1f}"
        table.add_row(
            name,
            str(group["images"]),
            str(group["images_changed"]),
            str(group["patches"]),
            flipped,
            f"{group['untouched_votes_changed']} of {group['untouched_votes']:,}",
        )
    console.print(table)


def _accuracies(summary: dict[str, Any]) -> Table:
    side, empirical = summary["patch_px"], summary["empirical_accuracy"]
    caption = (
        "Unknown without labels, or where no image that is right and uncertified was attacked."
    )
    if empirical is not None:
        kept = empirical["kept"]
        caption = (
            "Empirical: an upper bound from this attack alone; a stronger one can lower it. Of "
            f"{empirical['open_images']} images that are right and not certified {kept['of']} were "
            f"attacked and {kept['hits']} stayed right; its interval is of that sample, the others'"
            " of all images."
        )
    table = Table(
        title=f"{summary['images']} images, patch {side}x{side} px",
        title_justify="left",
        caption=caption,
        caption_justify="left",
    )
    table.add_column("accuracy")
    for heading in ("value", "95 % interval", "images"):
        table.add_column(heading, justify="right")
    for name, label in (("smoothed", "no patch"), ("certified", "certified, exact")):
        entry = summary[f"{name}_accuracy"]
        of = f"{entry['hits']}/{entry['of']}"
        table.add_row(label, _percent(entry["value"]), _interval(entry), of)
    table.add_row("<= true under the worst patch <=", "", "", "")
    if empirical is None:
        table.add_row("empirical, this attack", "unknown", "", "")
    else:
        table.add_row("empirical, this attack", _percent(empirical["value"]), _interval(empirical))
    return table


def _interval(entry: dict[str, Any]) -> str:
    low, high = entry["low"], entry["high"]
    return "" if low is None else f"{100 * low:.1f} - {100 * high:.1f} %"


def _percent(value: float | None) -> str:
    return "no labels" if value is None else f"{100 * value:.1f} %"
