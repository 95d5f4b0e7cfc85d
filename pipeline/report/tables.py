"""A run, an attack and a sweep as tables on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from models.views.threats import Threat
from pipeline.certificates.rules import rule_named, uncovered
from pipeline.runs.schema import DetectionCurve, Summary
from pipeline.scoring.claims import Alert, Claim, Claims
from pipeline.scoring.intervals import Proportion
from pipeline.scoring.words import (
    OF_ITS_PATCH,
    alerts,
    claim,
    interval,
    percent,
    threat,
    views,
    views_asked,
)

# Of the images right without any alert, the shares that detection is shown at.
_ANSWERED = (1.0, 0.95, 0.9, 0.8, 0.6)


def print_summary(summary: Summary, console: Console, claims: Claims | None = None) -> None:
    """Print accuracies with their 95 % intervals, one line a claim, and what alerts detect.

    Args:
        summary: All that is known of a run.
        console: Console to print to.
        claims: Only the answers to these, and how many others there are; None for all.
    """
    summary, others = _answers_to(claims, summary)
    images = summary["images"]
    table = Table(
        title=f"{images} images, {summary['ablations']} {views(summary)} each",
        title_justify="left",
        caption=_caption(summary),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("patch", justify="right")
    table.add_column("what", min_width=10)
    table.add_column("clean", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_column("images", justify="right")
    smoothed, labelled = summary["smoothed_accuracy"], images - summary["images_without_label"]
    for name, of in (("plain", summary["plain_accuracy"]), ("smoothed", smoothed)):
        # Imported votes may come without plain predictions.
        known = of["of"] or not labelled
        if name != "smoothed" or not summary.get("hides"):
            table.add_row("none", name, "", *(_cells(of) if known else ("unknown", "", "")))
    mean = summary["mean_ablation_accuracy"]
    if not summary.get("hides"):
        table.add_row("none", "mean over ablations", "", percent(mean), "", "")
    table.add_section()
    coarser = {entry["stride"]: entry for entry in summary["coarser"]}
    named = set()
    for entry in summary["certified_accuracy"]:
        stride = entry["stride"]
        if stride in coarser and stride not in named:
            named.add(stride)
            table.add_section()
            of = coarser[stride]["smoothed_accuracy"]
            table.add_row("none", f"smoothed, stride {stride}", "", *_cells(of))
        what = claim(entry, stride=stride in coarser) + alerts(entry, ", {}")
        clean = percent(entry["clean_accuracy"]["value"])
        table.add_row(threat(entry), what, clean, *_cells(entry))
    console.print(table)
    for curve in summary["detection"]:
        console.print(_detection(curve, threat(curve, stride=curve["stride"] in coarser)))
    if others:
        console.print(others, soft_wrap=True, markup=False)


def _answers_to(claims: Claims | None, summary: Summary) -> tuple[Summary, str]:
    """The part of a summary that answers ``claims``, and a line on the rest, if there is one."""
    if claims is None:
        return summary, ""
    entries, curves = summary["certified_accuracy"], summary["detection"]
    part: Summary = {
        **summary,
        "certified_accuracy": [one for one in entries if Claim.from_dict(one) in claims.claims],
        "detection": [
            one
            for one in curves
            if Alert(Threat.parse(one["threat"]), one["stride"]) in claims.alerts
        ],
    }
    more = len(entries) - len(part["certified_accuracy"])
    alerts = len(curves) - len(part["detection"])
    parts = [f"{more} certified accuracies"] if more else []
    parts += [f"what alerts detect of {alerts} threats"] if alerts else []
    line = f"asked before and stored too: {', '.join(parts)} (the summary, `patchcert sql`)"
    return part, line if parts else ""


def _detection(curve: DetectionCurve, against: str) -> Table:
    """The trade-off of an alert at some of its thresholds."""
    table = Table(
        title=f"Alert where the lead is below tau votes; patch {against}",
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
        hits = clean[place], curve["certified_recovery"][place], detected[place]
        shares = [percent(Proportion(count, curve["of"]).value) for count in hits]
        table.add_row(str(curve["tau"][place]), *shares)
    return table


def _caption(summary: Summary) -> str:
    parts = ["clean: right without a patch, by the rule's own answer"]
    if asked := views_asked(summary):
        parts.append(f"views asked: {asked}")
    if summary["images_with_error"]:
        parts.append(f"{summary['images_with_error']} images with errors count as wrong")
    if summary["images_without_label"]:
        parts.append(f"{summary['images_without_label']} images without a label are left out")
    if "basis" in summary:
        parts.append(summary["basis"])
    return "; ".join(parts)


def _cells(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    """A share, its interval and its counts, where they are known."""
    ends = interval(entry)
    of = f"{entry['hits']}/{entry['of']}" if "of" in entry else ""
    return percent(entry["value"]), ends and f"{ends} %", of


def print_attack(summary: dict[str, Any], console: Console) -> None:
    """Print the accuracies that enclose the true one, then what the patches did."""
    attacked = summary["attacked"]
    console.print(_accuracies(summary))
    table = Table(
        title=f"patches of {threat(summary)}, each voted on by the whole pipeline",
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
    empirical = summary["empirical_accuracy"]
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
        title=f"{summary['images']} images, patch {threat(summary)}",
        title_justify="left",
        caption=caption,
        caption_justify="left",
    )
    table.add_column("accuracy")
    for heading in ("value", "95 % interval", "images"):
        table.add_column(heading, justify="right")
    certified = f"certified, {summary['rule']}"
    if rule_named(summary["rule"]).knows_patch:
        certified += OF_ITS_PATCH
    for name, label in (("smoothed", "no patch"), ("certified", certified)):
        table.add_row(label, *_cells(summary[f"{name}_accuracy"]))
    table.add_row("<= true under the worst patch <=", "", "", "")
    if empirical is None:
        table.add_row("empirical, this attack", "unknown", "", "")
    else:
        table.add_row("empirical, this attack", *_cells(empirical))
    return table


def print_sweep(
    rows: Sequence[Mapping[str, Any]],
    failures: Sequence[str],
    varying: Sequence[str],
    claims: Sequence[str],
    out: Console,
) -> None:
    """Print a row a point: what varies, views, smoothed and certified accuracy, images a second.

    Args:
        rows: The points.
        failures: Reason for a point without figures, by row; empty where it has them.
        varying: Axes with several values.
        claims: Every claim of any row, in order.
        out: Console to print to.
    """
    # A rule that never certifies more than another that was asked is in MLflow alone.
    rules = uncovered(claim.split()[0] for claim in claims)
    shown = [claim for claim in claims if claim.split()[0] in rules]
    caption = "certified: by the rule and against the patch (px) named above"
    if any(row["votes of"] for row in rows):
        caption += ";\nimages/s: of points with votes of their own"
    table = Table(
        title=f"{len(rows)} points, % of all labelled images",
        title_justify="left",
        caption=caption,
        box=box.SIMPLE_HEAD,
        caption_justify="left",
    )
    others = {"weights": "weights", "views": "ablation"}
    others |= {name: name for name in ("tokens", "voting", "dtype")}
    axes = [column for name, column in others.items() if name in varying]
    sizes = ("size", "stride", "covers", "masks")
    axes += [name for name in sizes if any(row[name] is not None for row in rows)]
    for name in [*axes, "views", "smoothed", *shown, "images/s"]:
        words = name.split()
        table.add_column(
            "\n".join(words),
            justify="left" if name in ("weights", "ablation") else "right",
            min_width=max(map(len, words)),
        )
    table.add_column("votes\nof", no_wrap=True)
    for row, failure in zip(rows, failures, strict=True):
        cells = ["" if row[name] is None else str(row[name]) for name in (*axes, "views")]
        shares = [row["smoothed"], *(row["certified"].get(name) for name in shown)]
        cells += [percent(share, unknown="").removesuffix(" %") for share in shares]
        cells.append("" if row["images/s"] is None else f"{row['images/s']:.3g}")
        # The beginning of an id is enough for every command.
        votes = f"{row['run_id'][:6]} {(row['votes of'] or '').replace('stride ', 's')}"
        table.add_row(*cells, "failed" if failure else votes.strip())
    out.print(table)
    for row, failure in zip(rows, failures, strict=True):
        if failure:
            which = ", ".join(f"{name} {row[name]}" for name in axes)
            out.print(f"failed: {which}: {failure}", markup=False)
