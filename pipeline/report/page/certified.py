"""Certified accuracies as a table: a row a patch, a column a rule."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Entry = Mapping[str, Any]


class CertifiedRow(NamedTuple):
    """What the rules say of one question.

    Attributes:
        asked: The question without its rule: entries differ in nothing else.
        entries: Of the summary, by rule; a rule may not have been asked.
    """

    asked: Entry
    entries: Mapping[str, Entry]


class CertifiedTable(NamedTuple):
    """Every certified accuracy of a summary.

    Attributes:
        rules: The columns.
        rows: A question each, in the summary's order.
    """

    rules: Sequence[str]
    rows: Sequence[CertifiedRow]


def certified_table(summary: Mapping[str, Any]) -> CertifiedTable:
    """The certified accuracies of a summary."""
    rows: dict[tuple[Any, ...], dict[str, Entry]] = {}
    for entry in summary["certified_accuracy"]:
        key = tuple(entry[name] for name in ("threat", "top_k", "stride", "confidence"))
        rows.setdefault(key, {})[entry["rule"]] = entry
    rules = dict.fromkeys(entry["rule"] for entry in summary["certified_accuracy"])
    return CertifiedTable(
        list(rules), [CertifiedRow(next(iter(of.values())), of) for of in rows.values()]
    )
