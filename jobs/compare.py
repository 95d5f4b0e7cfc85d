"""``patchcert compare``: two runs, image by image."""

import json
from dataclasses import dataclass

from cyclopts import Parameter
from rich.console import Console

from pipeline.analysis import comparison, open_run
from pipeline.report.analysis_tables import print_comparison


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Options of a comparison of two runs.

    Attributes:
        intersect: Compare the images that both have, where they are over different ones.
        out: Folder of all results, local or s3://.
        json: Print JSON instead of a table.
    """

    intersect: bool = False
    out: str = "out"
    json: bool = False


def compare(first: str, second: str, /, *, how: CompareConfig = CompareConfig()) -> int:
    """Compare two runs over the same images: paired differences, McNemar's test, equal votes.

    Args:
        first: A run, or the beginning of its id.
        second: The other; differences are the second minus the first.
        how: Where the results lie and how the answer is printed.

    Raises:
        ConfigError: There is no such run, or they cannot be compared.
        ManifestError, StoreError: Votes or certificates are absent, incomplete or contradictory.
    """
    runs = open_run(how.out, first), open_run(how.out, second)
    found = comparison.compare(*runs, intersect=how.intersect)
    if how.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        print_comparison(found, Console(highlight=False))
    return 0
