"""How the page puts figures into words."""

from collections.abc import Mapping
from typing import Any

from pipeline.intervals import Proportion
from pipeline.questions.comparison import Comparison
from pipeline.questions.outcomes import Question
from pipeline.questions.paired import Paired
from pipeline.report.analysis_tables import agreement_in_words
from pipeline.report.page.chapter import Chapter
from pipeline.report.tables import claim_in_words

NO_LABELS = "no labels"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in per cent."""
    return NO_LABELS if share is None else f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def interval(entry: Mapping[str, Any]) -> str:
    """The ends of a share's interval in per cent; empty where nothing was counted."""
    if entry["low"] is None:
        return ""
    return f"{100 * entry['low']:.1f} – {100 * entry['high']:.1f}"  # noqa: RUF001


def signed(value: float, digits: int = 0) -> str:
    """A number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def number(value: float) -> str:
    """A number as short as three digits allow, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def share_cells(share: Proportion) -> tuple[str, str, float]:
    """A share of a class for a table: the value, its interval, and what to sort by."""
    low, high = share.interval() or (0.0, 1.0)
    value = share.value or 0.0
    return f"{100 * value:.1f}", f"{100 * low:.0f}–{100 * high:.0f}", value  # noqa: RUF001


def question_words(question: Question) -> str:
    """A question as the heading of a column."""
    if question.claim is None:
        return question.what
    return f"{question.claim.threat} px, {claim_words(question.claim.to_dict())}"


def asked_words(entry: Mapping[str, Any], own_stride: int | None) -> str:
    """What is asked of a patch, whatever the rule, as the heading of a row."""
    parts = [f"{entry['threat']} px"]
    if entry["top_k"] != 1:
        parts.append(f"top {entry['top_k']}")
    if entry["stride"] != own_stride:
        parts.append(f"stride {entry['stride']}")
    if entry["confidence"] is not None:
        parts.append(f"confidence {100 * entry['confidence']:g}\N{NO-BREAK SPACE}%")
    return ", ".join(parts)


def claim_words(entry: Mapping[str, Any]) -> str:
    """A claim without its threat."""
    return claim_in_words(dict(entry))


def votes_words(found: Comparison) -> str:
    """How far two runs cast the same votes."""
    if found.votes is None:
        return (
            "Votes: not compared one by one, since the two vote on other ablations, not on all of "
            "them, or not for one class each."
        )
    return agreement_in_words(found.votes)


def paired_cells(paired: Paired) -> tuple[str, ...]:
    """Both shares, the difference with its interval, discordant images, McNemar's p."""
    ends = paired.interval()
    if ends is None or paired.difference is None:
        return NO_LABELS, "", "", "", ""
    p = paired.p_value()
    return (
        f"{100 * (paired.first.value or 0):.1f}",
        f"{100 * (paired.second.value or 0):.1f}",
        f"{signed(100 * paired.difference, 1)} "
        f"({signed(100 * ends[0], 1)} to {signed(100 * ends[1], 1)})",
        f"{paired.only_first:,} / {paired.only_second:,}",
        f"{p:.3f}" if p >= 0.001 else f"{p:.0e}",
    )


def outline(chapter: Chapter) -> str:
    """A run's classifier in one line."""
    manifest, ablation = chapter.manifest, chapter.run.ablation
    positions = f"stride {ablation.stride} px"
    if ablation.random is not None:
        positions = f"{ablation.random} fixed random positions"
    if manifest.draws is not None:
        positions = f"{manifest.draws} positions drawn for each image"
    known = {"drop": "dropped", "black": "black"}
    tokens = known.get(manifest.identity.get("tokens", ""), "unknown")
    voting = "" if manifest.theta is None else f", votes of softmax ≥ {manifest.theta:g}"
    return (
        f"{manifest.identity['model']['name']}, {ablation.kind} ablations of {ablation.size} px of "
        f"{ablation.height} × {ablation.width}, {positions}, hidden tokens {tokens}{voting}"  # noqa: RUF001
    )


def counted(chapter: Chapter, *, labelled: bool = True) -> str:
    """Which images a figure counts, and how those with errors."""
    images, errors, without = (
        chapter.summary[name] for name in ("images", "images_with_error", "images_without_label")
    )
    parts = [f"{images:,} images"]
    parts.append(f"{errors:,} with an error (counted as wrong)" if errors else "none with an error")
    if without:
        parts.append(f"{without:,} without a label ({'left out' if labelled else 'counted'})")
    return ", ".join(parts) + "."
