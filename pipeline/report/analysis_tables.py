"""What comparisons, classes and breaking places look like on a terminal."""

from collections.abc import Sequence
from decimal import ROUND_CEILING, Context
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.intervals import Proportion
from pipeline.questions.agreement import Agreement
from pipeline.questions.classes import ClassRow
from pipeline.questions.comparison import Comparison
from pipeline.questions.heatmap import BreakingMap
from pipeline.questions.outcomes import Question
from pipeline.questions.paired import Paired
from pipeline.questions.run import Run
from pipeline.report.tables import claim_in_words

# Wider than any table.
_UNBOUNDED = 10_000
# Narrow enough for a terminal of 80 columns.
_STYLE: dict[str, Any] = {
    "title_justify": "left",
    "caption_justify": "left",
    "box": box.SIMPLE_HEAD,
    "show_edge": False,
    "pad_edge": False,
    "padding": (0, 1, 0, 0),
}


def print_comparison(found: Comparison, console: Console) -> None:
    """Print both runs' accuracies, the difference with its interval, and McNemar's p-value."""
    for name, run in (("first:", found.first), ("second:", found.second)):
        console.print(f"{name:8}{_outline(run)}", soft_wrap=True, markup=False)
    table = Table(
        title=f"{found.images} images, the same in both", caption=_caption(found), **_STYLE
    )
    table.add_column("patch", justify="right", no_wrap=True)
    table.add_column("what", min_width=10)
    table.add_column("first", justify="right", no_wrap=True)
    table.add_column("second", justify="right", no_wrap=True)
    table.add_column("difference (95 %)", justify="right", no_wrap=True)
    table.add_column("only 1st/2nd", justify="right")
    table.add_column("p", justify="right", no_wrap=True)
    for question, paired in found.tables.items():
        table.add_row(_patch(question), _words(question), *_paired_cells(paired))
    console.print(table)
    if found.votes is not None:
        console.print(agreement_in_words(found.votes), markup=False)
    for note in found.notes:
        console.print(f"Note: {note}.", markup=False)


def _outline(run: Run) -> str:
    manifest, ablation = run.manifest, run.ablation
    model = manifest.identity["model"]
    positions = f"stride {ablation.stride}"
    if ablation.random is not None:
        positions = f"{ablation.random} random positions (seed {ablation.seed})"
    if manifest.draws is not None:
        positions = f"{manifest.draws} positions drawn for each image"
    voting = "" if manifest.theta is None else f", votes of softmax >= {manifest.theta:g}"
    return (
        f"{run.run_id}  {model['name']}, {ablation.kind} b={ablation.size} px, "
        f"{positions}, hidden tokens {manifest.identity['tokens']}{voting}, weights "
        f"{model['weights_sha256'][:8]}, {run.dtype}"
    )


def agreement_in_words(votes: Agreement) -> str:
    """How far the runs cast the same votes, in sentences."""
    if not votes.ablations:
        return "Votes: no image was voted on in both."
    of = f"{votes.ablations:,} ablations of {votes.images:,} images"
    differ = votes.ablations - votes.equal
    if not differ:
        return f"Votes: all {of} vote equally."
    said = (
        f"Votes: {100 * votes.equal / votes.ablations:.2f} % of {of} vote equally; {differ:,} "
        f"differ, on {votes.images_differ:,} images, and {votes.predictions_differ:,} smoothed "
        "predictions."
    )
    gaps = votes.gaps
    if gaps is None:
        return f"{said} A run with --gaps says how near a tie they are."
    where = gaps.where
    places = {"column": f"x = {where.x}", "row": f"y = {where.y}"}
    place = places.get(gaps.run.ablation.kind, f"x = {where.x}, y = {where.y}")
    return (
        f"{said}\nWhere they differ, the top two logits of {gaps.run.run_id} ({gaps.run.dtype}) "
        f"are less than {_rounded_up(gaps.below)} apart, {gaps.median:.4g} at the median; so are "
        f"{100 * gaps.as_near / votes.ablations:.2f} % of all. The farthest: {where.image_id}, "
        f"ablation {where.ablation} ({place}), class {where.first} or {where.second}."
    )


def _rounded_up(bound: float) -> str:
    """Four digits, so that what is below the bound is below what is printed."""
    return f"{Context(prec=4, rounding=ROUND_CEILING).create_decimal(bound):f}"


def _caption(found: Comparison) -> str:
    parts = [
        "in % and points, second minus first (Newcombe 1998, method 10);",
        "only: images that one of them alone has right; p: exact McNemar test, one by one",
    ]
    if any(found.errors):
        parts.append(f"errors count as wrong: first {found.errors[0]}, second {found.errors[1]}")
    if found.unlabelled:
        parts.append(f"without a label, left out: {found.unlabelled}")
    if any(found.only):
        parts.append(
            f"left out: {found.only[0]} only in the first, {found.only[1]} only in the second"
        )
    return "\n".join(parts)


def _paired_cells(paired: Paired) -> tuple[str, ...]:
    interval = paired.interval()
    if interval is None or paired.difference is None:
        return "no labels", "", "", "", ""
    low, high = interval
    p = paired.p_value()
    return (
        f"{100 * paired.first.hits / paired.of:.1f}",
        f"{100 * paired.second.hits / paired.of:.1f}",
        f"{100 * paired.difference:+.1f} ({100 * low:+.1f} .. {100 * high:+.1f})",
        f"{paired.only_first}/{paired.only_second}",
        f"{p:.3f}" if p >= 0.001 else f"{p:.0e}",
    )


def _patch(question: Question) -> str:
    return f"{question.claim.threat} px" if question.claim else "none"


def _words(question: Question) -> str:
    claim = question.claim
    if claim is None:
        return question.what
    return claim_in_words(claim.to_dict()) + (f", stride {claim.stride}" if claim.stride else "")


def print_classes(
    rows: Sequence[ClassRow], questions: Sequence[Question], names: Sequence[str], console: Console
) -> None:
    """Print shares with their Wilson intervals, a line a class; where both have no room, shares.

    Args:
        rows: The classes.
        questions: The columns.
        names: Names of the classes by number; empty where they are not known.
        console: Where to.
    """
    # Side by side where there is room on a line of 80.
    between = " " if len(questions) <= 3 else "\n"
    table = _classes(rows, questions, names, between)
    unbounded = console.options.update_width(_UNBOUNDED)
    if console.measure(table, options=unbounded).maximum > console.width:
        table = _classes(rows, questions, names, None)
    console.print(table)


def _classes(
    rows: Sequence[ClassRow],
    questions: Sequence[Question],
    names: Sequence[str],
    between: str | None,
) -> Table:
    """The table; ``between`` a share and its interval, None for shares alone."""
    errors = sum(row.errors for row in rows)
    rules = {claim_in_words(claim.to_dict()) for _, claim in questions if claim is not None}
    intervals = " (95 % interval)" if between else ""
    notes = [f"{errors} images with errors count as wrong"] if errors else []
    notes += [] if between else ["95 % intervals: --json, a wider terminal, or fewer --patch"]
    table = Table(
        title=f"% of each class that is right{intervals}"
        + "".join(f"; by patch{'' if between else ' in px'}: {rule}" for rule in sorted(rules)),
        caption="; ".join(notes) or None,
        **_STYLE,
    )
    table.add_column("class", no_wrap=True, overflow="ellipsis")
    table.add_column("images", justify="right", no_wrap=True)
    if errors:
        table.add_column("errors", justify="right", no_wrap=True)
    for question in questions:
        header = _patch(question) if question.claim else question.what
        if not between:
            header = header.removesuffix(" px")
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        name = names[row.label] if row.label < len(names) else ""
        counts = [str(row.images), *([str(row.errors)] if errors else [])]
        cells = [_share(row.shares[question], between) for question in questions]
        table.add_row(f"{row.label} {name}".strip(), *counts, *cells)
    return table


def _share(share: Proportion, between: str | None) -> str:
    low, high = share.interval() or (0.0, 1.0)
    interval = f"{between}({100 * low:.0f}-{100 * high:.0f})" if between else ""
    return f"{100 * share.hits / share.of:.1f}{interval}"


def print_maps(maps: Sequence[BreakingMap], console: Console) -> None:
    """Print the worst and the mildest place of each patch."""
    shown = maps[0].shown
    which = "rightly predicted images" if maps[0].right.images else "images (no labels)"
    table = Table(title=f"{shown.images} {which}, uncertified because of a place", **_STYLE)
    table.add_column("patch", justify="right")
    table.add_column("worst place")
    for name in ("uncertified there", "at the mildest", "over all places"):
        table.add_column(name, justify="right")
    for found in maps:
        counts, y, x = found.shown.counts_yx, *found.worst
        place = {"column": f"x = {x}", "row": f"y = {y}", "block": f"x = {x}, y = {y}"}
        numbers = (counts.max(), counts.min(), found.shown.anywhere)
        table.add_row(
            str(found.patch),
            place[found.run.ablation.kind],
            *(f"{n} ({100 * n / max(1, shown.images):.1f} %)" for n in map(int, numbers)),
        )
    console.print(table)
