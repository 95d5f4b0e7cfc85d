"""What a finished run looks like on a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.certificates.threats import Threat
from pipeline.claims import Alert, Claim, Questions
from pipeline.intervals import Proportion

# Of the images right without any alert, the shares that detection is shown at.
_ANSWERED = (1.0, 0.95, 0.9, 0.8, 0.6)


def print_summary(
    summary: dict[str, Any], console: Console, asked: Questions | None = None
) -> None:
    """Print accuracies with their 95 % intervals, one line a claim, and what alerts detect.

    Args:
        summary: All that is known of a run.
        console: Where to.
        asked: Only the answers to these, and how many others there are; None for all.
    """
    summary, others = _answers_to(asked, summary)
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
        of = summary[f"{name}_accuracy"]
        # Imported votes may come without plain predictions.
        known = of["of"] or not summary["smoothed_accuracy"]["of"]
        table.add_row("none", name, *(_cells(of) if known else ("unknown", "", "")))
    if "decide" not in summary:
        mean = summary["mean_ablation_accuracy"]
        table.add_row("none", "mean over ablations", _percent(mean), "", "")
    table.add_section()
    coarser = {entry["stride"]: entry for entry in summary["coarser"]}
    named = set()
    for entry in summary["certified_accuracy"]:
        stride = entry["stride"]
        if stride in coarser and stride not in named:
            named.add(stride)
            table.add_section()
            table.add_row(
                "none", f"smoothed, stride {stride}", *_cells(coarser[stride]["smoothed_accuracy"])
            )
        what = claim_in_words(entry) + (f", stride {stride}" if stride in coarser else "")
        table.add_row(f"{entry['threat']} px", what, *_cells(entry))
    console.print(table)
    for curve in summary["detection"]:
        console.print(_detection(curve, curve["stride"] if curve["stride"] in coarser else None))
    if others:
        console.print(others, soft_wrap=True, markup=False)


def _answers_to(asked: Questions | None, summary: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The part of a summary that answers ``asked``, and a line on the rest, if there is one."""
    if asked is None:
        return summary, ""
    claims, curves = summary["certified_accuracy"], summary["detection"]
    part = {
        **summary,
        "certified_accuracy": [one for one in claims if Claim.from_dict(one) in asked.claims],
        "detection": [
            one
            for one in curves
            if Alert(Threat.parse(one["threat"]), one["stride"]) in asked.alerts
        ],
    }
    more = len(claims) - len(part["certified_accuracy"])
    alerts = len(curves) - len(part["detection"])
    said = [f"{more} certified accuracies"] if more else []
    said += [f"what alerts detect of {alerts} threats"] if alerts else []
    line = f"asked before and stored too: {', '.join(said)} (the summary, `patchcert sql`)"
    return part, line if said else ""


def claim_in_words(entry: dict[str, Any]) -> str:
    """What a claim of the summary says, without its threat and its stride."""
    places = "" if entry["top_k"] == 1 else f" top {entry['top_k']}"
    words = f"certified{places}, {entry['rule']}"
    if entry["confidence"] is not None:
        # Never let a probabilistic certificate pass for a proof.
        words += f" (confidence {100 * entry['confidence']:g} % an image)"
    return words


def devices_in_words(devices: dict[str, int]) -> str:
    """Whose votes those of a run on several device models are."""
    named = ", ".join(f"{model} ({images:,} images)" for model, images in devices.items())
    plural = "" if len(devices) == 1 else "s"
    return (
        f"votes of {len(devices)} device model{plural} (--allow-mixed-devices): {named or 'none'}; "
        "bit-identity is promised within one"
    )


def _detection(curve: dict[str, Any], stride: int | None) -> Table:
    """The trade-off of an alert at some of its thresholds; ``stride`` where it is not the run's."""
    of_stride = "" if stride is None else f", stride {stride}"
    table = Table(
        title=f"Alert where the lead is below tau votes; patch {curve['threat']} px{of_stride}",
        title_justify="left",
        caption="recovery: right, and no patch changes that or raises an alert. detection: right, "
        "and no patch gets another answer without an alert",
        caption_justify="left",
    )
    for name in ("tau", "right, no alert", "certified recovery", "certified detection"):
        table.add_column(name, justify="right")
    clean, detected = curve["clean"], curve["certified_detection"]
    places = [sum(hits >= share * clean[0] for hits in clean) - 1 for share in _ANSWERED]
    for place in sorted({*places, detected.index(max(detected))}):
        counts = (
            curve[name][place] for name in ("clean", "certified_recovery", "certified_detection")
        )
        shares = [_percent(Proportion(hits, curve["of"]).value) for hits in counts]
        table.add_row(str(curve["tau"][place]), *shares)
    return table


def _caption(summary: dict[str, Any]) -> str:
    parts = []
    if summary["images_with_error"]:
        parts.append(f"{summary['images_with_error']} images with errors count as wrong")
    if summary["images_without_label"]:
        parts.append(f"{summary['images_without_label']} images without a label are left out")
    if "basis" in summary:
        parts.append(summary["basis"])
    if "devices" in summary:
        parts.append(devices_in_words(summary["devices"]))
    if summary.get("decide", {}).get("of"):
        saved = summary["decide"]
        parts.append(
            f"{_percent(saved['share_saved'])} of the votes were not needed (--decide): "
            f"{saved['votes_cast']:,} cast of {saved['of']:,}"
        )
    return "; ".join(parts)


def _cells(proportion: dict[str, Any]) -> tuple[str, str, str]:
    low, high = proportion["low"], proportion["high"]
    interval = "" if low is None else f"{100 * low:.1f} - {100 * high:.1f} %"
    return _percent(proportion["value"]), interval, f"{proportion['hits']}/{proportion['of']}"


def _percent(value: float | None) -> str:
    return "no labels" if value is None else f"{100 * value:.1f} %"
