"""``patchcert export``: a run as files for others."""

from pipeline.analysis import open_run
from pipeline.interchange.config import ExportConfig
from pipeline.interchange.exporting import export_run


def export(run: str | None = None, /, *, what: ExportConfig) -> int:
    """Write a run as files for a leaderboard: images, headline, manifest, votes if asked.

    Args:
        run: A run, or the beginning of its id; may be left out where --out holds one only.
        what: What is written, and where.

    Raises:
        ConfigError: There is no such run, its votes do not answer, or the folder is there already.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    opened = open_run(what.out, run)
    for name, path in export_run(opened, what).items():
        print(f"{name + ':':16}{path}")
    print(f"run_id={opened.run_id}")
    return 0
