"""Comparisons, classes, breaking places and audits as tables on a terminal."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.analysis.audit import Audit
from pipeline.analysis.classes import ClassRow
from pipeline.analysis.comparison import Comparison
from pipeline.analysis.heatmap import BreakingMap, images_shown
from pipeline.analysis.outcomes import Measure
from pipeline.analysis.run import Run
from pipeline.report import words
from pipeline.scoring.words import location, percent, series
from pipeline.scoring.words import run as run_words

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
    table.add_column("what", min_width=14)
    table.add_column("first", justify="right", no_wrap=True)
    table.add_column("second", justify="right", no_wrap=True)
    table.add_column("difference (95 %)", justify="right", no_wrap=True)
    table.add_column("only 1st/2nd", justify="right")
    table.add_column("p", justify="right", no_wrap=True)
    for question, paired in found.tables.items():
        table.add_row(words.patch(question), words.claim_of(question), *words.paired_cells(paired))
    console.print(table)
    if found.votes is not None:
        console.print(words.agreement(found.votes), markup=False)
    for note in found.notes:
        console.print(f"Note: {note}.", markup=False)


def _outline(run: Run) -> str:
    manifest = run.manifest
    return (
        f"{run.run_id}  {run_words(manifest)}, hidden tokens {manifest.defense.tokens}"
        f"{words.voting(manifest)}, weights "
        f"{manifest.defense.network.weights_sha256[:8]}, {run.dtype}"
    )


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


def print_classes(
    rows: Sequence[ClassRow], questions: Sequence[Measure], names: Sequence[str], console: Console
) -> None:
    """Print shares with their Wilson intervals, a line a class; where both have no room, shares.

    Args:
        rows: The classes.
        questions: The columns.
        names: Names of the classes by number; empty where they are not known.
        console: Console to print to.
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
    questions: Sequence[Measure],
    names: Sequence[str],
    between: str | None,
) -> Table:
    """The table; ``between`` a share and its interval, None for shares alone."""
    errors = sum(row.errors for row in rows)
    rules = {series(one.claim.to_dict()) for one in questions if one.claim is not None}
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
        header = words.column(question)
        if not between:
            header = header.replace(" px", "")
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        name = names[row.label] if row.label < len(names) else ""
        counts = [str(row.images), *([str(row.errors)] if errors else [])]
        shares = [words.share_cells(row.shares[question]) for question in questions]
        cells = [f"{share}{between}({ends})" if between else share for share, ends in shares]
        table.add_row(f"{row.label} {name}".strip(), *counts, *cells)
    return table


def print_maps(maps: Sequence[BreakingMap], console: Console) -> None:
    """Print the worst and the mildest place of each patch."""
    table = Table(title=f"{images_shown(maps)}, uncertified because of a place", **_STYLE)
    table.add_column("patch", justify="right")
    table.add_column("worst place")
    for name in ("uncertified there", "at the mildest", "over all places"):
        table.add_column(name, justify="right")
    for found in maps:
        counts, y, x = found.shown.counts_yx, *found.worst
        numbers = (counts.max(), counts.min(), found.shown.anywhere)
        table.add_row(
            found.label,
            location(*found.run.views.coordinates(y, x)),
            *(f"{n} ({percent(n / max(1, found.shown.images))})" for n in map(int, numbers)),
        )
    console.print(table)


def print_audits(audits: Sequence[Audit], console: Console) -> None:
    """Print certified accuracies by rule, and the certificates that a patch can break."""
    table = Table(
        title=f"{audits[0].images} images: certified accuracy by rule",
        caption="Delta: touched ablations, by the published formula and in truth. Broken: images "
        "that the published rule certifies and some votes under the patch flip.",
        **_STYLE | {"padding": (0, 1), "pad_edge": True},
    )
    for name in ("stride", "divides", "patch", "Delta", "published", "uniform", "exact", "broken"):
        table.add_column(name, justify="right")
    previous = None
    for audit in audits:
        if previous not in (None, audit.stride):
            table.add_section()
        previous = audit.stride
        table.add_row(
            str(audit.stride),
            "yes" if audit.divides else "no",
            f"{audit.patch_px}x{audit.patch_px}",
            f"{audit.delta_published} / {audit.delta}",
            *(
                percent(count / audit.images, 2)
                for count in (audit.published, audit.uniform, audit.exact)
            ),
            str(audit.wrongly),
        )
    console.print(table)
