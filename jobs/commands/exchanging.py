"""Runs of other programs, and for them: export, import."""

from typing import Annotated

from cyclopts import Parameter

from jobs.commands.app import app
from pipeline.interchange.config import ExportConfig, ImportConfig


@app.command
def export(
    run: str | None = None,
    /,
    *,
    what: Annotated[ExportConfig, Parameter(name="*", group="What is written")],
) -> int:
    """Write a run as files for a leaderboard: images, headline, manifest, votes if asked.

    Args:
        run: A run, or the beginning of its id; may be left out where --out holds one only.
        what: What is written, and where.
    """
    from jobs.export import run_export  # noqa: PLC0415

    return run_export(run, what)


@app.command(name="import")
def import_votes(
    *files: str,
    what: Annotated[ImportConfig, Parameter(name="*", group="What voted")] = ImportConfig(),  # noqa: B008
    out: Annotated[str, Parameter(group="Output")] = "out",
) -> int:
    """Make a run of votes that were cast elsewhere, so that every question can be asked of them.

    Args:
        files: Votes (.npz or .parquet, see docs/interchange.md), local or s3://.
        what: What voted.
        out: Folder of all results, local or s3://.
    """
    from jobs.import_votes import run_import  # noqa: PLC0415

    return run_import(files, what, out)
