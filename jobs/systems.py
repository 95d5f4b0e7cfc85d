"""``patchcert systems``: list what can be evaluated, from ``models.networks.systems``."""

import sys

from rich.console import Console
from rich.table import Table

from models.networks.systems import SYSTEMS, System

_HEADINGS = ("family", "for example", "tokens", "voting", "remark")


def systems(*, markdown: bool = False) -> int:
    """List what can be evaluated: model families, token modes, voting.

    Args:
        markdown: Print the table of the documentation.
    """
    if markdown:
        print(systems_markdown())
        return 0
    table = Table(*_HEADINGS, show_lines=True)
    for system in SYSTEMS:
        table.add_row(*_cells(system))
    # A pipe or a log has no width of its own: none of the table is cut there.
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return 0


def systems_markdown() -> str:
    """The registry as a Markdown table."""
    rows = [_HEADINGS, ("---",) * len(_HEADINGS), *map(_cells, SYSTEMS)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cells(system: System) -> tuple[str, ...]:
    remark = system.note
    if system.refusal is not None:
        remark = f"no drop: {system.refusal}"
    return (
        system.family,
        ", ".join(system.examples),
        ", ".join(system.tokens),
        ", ".join(system.voting),
        remark,
    )
