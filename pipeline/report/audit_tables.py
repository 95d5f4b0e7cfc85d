"""What an audit of the published certificate looks like on a terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.questions.audit import Audit


def print_audits(audits: Sequence[Audit], console: Console) -> None:
    """Print certified accuracies by rule, and the certificates that a patch can break."""
    table = Table(
        title=f"{audits[0].images} images: certified accuracy by rule",
        caption="Delta: touched ablations, by the published formula and in truth. Broken: images "
        "that the published rule certifies and some votes under the patch flip.",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
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
                f"{100 * count / audit.images:.2f} %"
                for count in (audit.published, audit.uniform, audit.exact)
            ),
            str(audit.wrongly),
        )
    console.print(table)
