"""``patchcert import``: votes that were cast elsewhere."""

import sys

from pipeline.config import ConfigError
from pipeline.interchange import importing
from pipeline.interchange.config import ImportConfig
from pipeline.runs.manifest import AS_GIVEN


def import_votes(*files: str, what: ImportConfig = ImportConfig(), out: str = "out") -> int:
    """Make a run of votes that were cast elsewhere, so that every question can be asked of them.

    Args:
        files: Votes (.npz or .parquet, see docs/interchange.md), local or s3://.
        what: What voted.
        out: Folder of all results, local or s3://.

    Raises:
        ConfigError, PathError, SourceError: The files or the flags are wrong.
        ManifestError, StoreError: The run that is there contradicts itself.
    """
    if not files:
        raise ConfigError("give one or more files of votes, .npz or .parquet")
    done = importing.import_votes(files, what, out)
    count = f"votes of {done.images} images"
    if done.errors:
        count += f", {done.errors} of them with an error in place of votes,"
    print(f"{count} {'stored' if done.computed else 'were there already'}", file=sys.stderr)
    print(AS_GIVEN, file=sys.stderr)
    print(f"{'votes:':8}{done.folder}")
    print(f"run_id={done.run_id}")
    return 0
