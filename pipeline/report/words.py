"""Comparisons and classes in words, for the terminal and the page."""

from decimal import ROUND_CEILING, Context

from pipeline.analysis.agreement import Agreement
from pipeline.analysis.comparison import Comparison, Paired
from pipeline.analysis.outcomes import Measure
from pipeline.analysis.run import Run
from pipeline.runs.manifest import Manifest
from pipeline.runs.schema import ClaimEntry, Summary
from pipeline.scoring.intervals import Proportion
from pipeline.scoring.words import (
    NO_LABELS,
    claim,
    location,
    other_size,
    positions,
    size,
    threat,
)


def number(value: float) -> str:
    """Format a number as short as three digits allow, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def share_cells(share: Proportion) -> tuple[str, str]:
    """Format the share of a class and its interval in per cent, without the sign."""
    low, high = share.interval() or (0.0, 1.0)
    return f"{100 * (share.value or 0):.1f}", f"{100 * low:.0f}-{100 * high:.0f}"


def patch(of: Measure) -> str:
    """Name the patch of a question."""
    return size(str(of.claim.threat)) if of.claim else "none"


def claim_of(of: Measure) -> str:
    """Name the claim of a question, or the kind of prediction."""
    if of.claim is None:
        return of.what
    words = claim(of.claim.to_dict(), stride=True, what=of.what)
    if of.against is None:
        return words
    # Each run by a rule of its own.
    return f"{words} | {claim(of.against.to_dict(), what='').removeprefix(', ')}"


def question(of: Measure) -> str:
    """Name a question in whole."""
    return f"{patch(of)}, {claim_of(of)}" if of.claim else of.what


def heading(entry: ClaimEntry, own_stride: int | None) -> str:
    """Name a claim without its rule, as the heading of a row."""
    parts = [threat(entry)]
    if entry["top_k"] != 1:
        parts.append(f"top {entry['top_k']}")
    if entry["stride"] != own_stride:
        parts.append(f"stride {entry['stride']}")
    if entry["confidence"] is not None:
        parts.append(f"confidence {100 * entry['confidence']:g} %")
    if entry["tau"] is not None:
        parts.append(f"tau {entry['tau']:g}")
    if assumed := other_size(entry):
        parts.append(f"assumed up to {size(assumed)}")
    return ", ".join(parts)


def column(of: Measure) -> str:
    """Head the column of a question among others of the same rule."""
    if of.claim is None:
        return of.what
    kind = "clean, " if of.what == "clean" else ""
    return kind + heading(of.claim.to_dict(), of.claim.stride)


def paired_cells(paired: Paired) -> tuple[str, ...]:
    """Format both shares, the difference with its interval, discordant images, McNemar's p."""
    ends = paired.interval()
    if ends is None or paired.difference is None:
        return NO_LABELS, "", "", "", ""
    low, high = ends
    p = paired.p_value()
    return (
        f"{100 * paired.first.hits / paired.of:.1f}",
        f"{100 * paired.second.hits / paired.of:.1f}",
        f"{100 * paired.difference:+.1f} ({100 * low:+.1f} .. {100 * high:+.1f})",
        f"{paired.only_first}/{paired.only_second}",
        f"{p:.3f}" if p >= 0.001 else f"{p:.0e}",
    )


def votes(found: Comparison) -> str:
    """Say how far two runs cast the same votes."""
    if found.votes is None:
        what = "views" if found.first.views.hides or found.second.views.hides else "ablations"
        return (
            f"Votes: not compared one by one, since the two vote on other {what}, not on all of "
            "them, or not for one class each."
        )
    return agreement(found.votes)


def agreement(same: Agreement) -> str:
    """Say how far runs over the same ablations cast the same votes."""
    if not same.ablations:
        return "Votes: no image was voted on in both."
    what = "views" if same.predictions_differ is None else "ablations"
    of = f"{same.ablations:,} {what} of {same.images:,} images"
    differ = same.ablations - same.equal
    if not differ:
        return f"Votes: all {of} vote equally."
    counts = (
        f"Votes: {100 * same.equal / same.ablations:.2f} % of {of} vote equally; {differ:,} "
        f"differ, on {same.images_differ:,} images"
    )
    if same.predictions_differ is not None:
        counts += f", and {same.predictions_differ:,} smoothed predictions"
    counts += "."
    gaps = same.gaps
    if gaps is None:
        return f"{counts} A run with --gaps says how near a tie they are."
    where = gaps.where
    place = ""
    if where.y is not None and where.x is not None:
        place = f" ({location(*gaps.run.views.coordinates(where.y, where.x))})"
    return (
        f"{counts}\nWhere they differ, the top two logits of {gaps.run.run_id} ({gaps.run.dtype}) "
        f"are less than {_rounded_up(gaps.below)} apart, {gaps.median:.4g} at the median; so are "
        f"{100 * gaps.as_near / same.ablations:.2f} % of all. The farthest: {where.image_id}, "
        f"{_view(gaps.run)} {where.ablation}{place}, class {where.first} or {where.second}."
    )


def _view(run: Run) -> str:
    return "view" if run.views.hides else "ablation"


def _rounded_up(bound: float) -> str:
    """Four digits, so that what is below the bound is below what is printed."""
    return f"{Context(prec=4, rounding=ROUND_CEILING).create_decimal(bound):f}"


def voting(manifest: Manifest) -> str:
    """Describe threshold voting, to follow another word; empty of votes for the largest logit."""
    theta = manifest.defense.voting.theta
    return "" if theta is None else f", votes of softmax ≥ {theta:g}"


def outline(manifest: Manifest) -> str:
    """Describe a run's classifier in one line of the page."""
    views = manifest.defense.views
    known = {"drop": "dropped", "black": "black"}
    tokens = known.get(manifest.defense.tokens, "unknown")
    which = positions(manifest) + (" px" if manifest.defense.own_stride is not None else "")
    what = f"{views.describe().views} {'on' if views.hides else 'of'}"
    return (
        f"{manifest.defense.network.name}, {what} "
        f"{views.height} × {views.width}, {which}, hidden tokens {tokens}"  # noqa: RUF001
        f"{voting(manifest)}"
    )


def counted(summary: Summary, *, labelled: bool = True) -> str:
    """Say which images a figure counts, and how it counts those with errors."""
    errors, without = summary["images_with_error"], summary["images_without_label"]
    parts = [f"{summary['images']:,} images"]
    parts.append(f"{errors:,} with an error (counted as wrong)" if errors else "none with an error")
    if without:
        parts.append(f"{without:,} without a label ({'left out' if labelled else 'counted'})")
    return ", ".join(parts) + "."
