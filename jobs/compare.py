"""``patchcert compare``: two runs, image by image. Also ``python -m jobs.compare``."""

import json
import sys
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """How two runs are compared.

    Attributes:
        intersect: Compare the images that both have, where they are over different ones.
        out: Folder of all results, local or s3://.
        json: Print JSON instead of a table.
    """

    intersect: bool = False
    out: str = "out"
    json: bool = False


def run_compare(first: str, second: str, how: CompareConfig) -> int:
    """Compare two runs.

    Raises:
        ConfigError: There is no such run, or they cannot be compared.
        ManifestError, StoreError: Votes or certificates are absent, incomplete or contradictory.
    """
    # Arrow: --help and usage errors must not wait for it.
    from rich.console import Console  # noqa: PLC0415

    from pipeline.questions import open_run  # noqa: PLC0415
    from pipeline.questions.comparison import compare  # noqa: PLC0415
    from pipeline.report.analysis_tables import print_comparison  # noqa: PLC0415

    runs = open_run(how.out, first), open_run(how.out, second)
    found = compare(*runs, intersect=how.intersect)
    if how.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        print_comparison(found, Console(highlight=False))
    return 0


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["compare", *sys.argv[1:]]))
