"""``patchcert export``: a run as files for others. Also ``python -m jobs.export``."""

import sys

from pipeline.interchange.config import ExportConfig


def run_export(run_id: str | None, what: ExportConfig) -> int:
    """Write the files, and say where; the last line on standard output is ``run_id=...``.

    Raises:
        ConfigError: There is no such run, its votes do not answer, or the folder is there already.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    # Arrow: --help and usage errors must not wait for it.
    from pipeline.interchange.exporting import export_run  # noqa: PLC0415
    from pipeline.questions import open_run  # noqa: PLC0415

    run = open_run(what.out, run_id)
    for name, path in export_run(run, what).items():
        print(f"{name + ':':16}{path}")
    print(f"run_id={run.run_id}")
    return 0


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["export", *sys.argv[1:]]))
