"""``patchcert import``: votes that were cast elsewhere. Also ``python -m jobs.import_votes``."""

import sys
from collections.abc import Sequence

from pipeline.config import ConfigError
from pipeline.interchange.config import ImportConfig


def run_import(files: Sequence[str], what: ImportConfig, out: str) -> int:
    """Store files of votes as a run; the last line on standard output is ``run_id=...``.

    Raises:
        ConfigError, PathError, SourceError: The files or the flags are wrong.
        ManifestError, StoreError: The run that is there contradicts itself.
    """
    if not files:
        raise ConfigError("give one or more files of votes, .npz or .parquet")
    # Arrow: --help and usage errors must not wait for it.
    from pipeline.interchange.importing import import_votes  # noqa: PLC0415
    from pipeline.manifest import AS_GIVEN  # noqa: PLC0415

    done = import_votes(files, what, out)
    count = f"votes of {done.images} images"
    if done.errors:
        count += f", {done.errors} of them with an error in place of votes,"
    print(f"{count} {'stored' if done.computed else 'were there already'}", file=sys.stderr)
    print(AS_GIVEN, file=sys.stderr)
    print(f"{'votes:':8}{done.folder}")
    print(f"run_id={done.run_id}")
    return 0


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["import", *sys.argv[1:]]))
