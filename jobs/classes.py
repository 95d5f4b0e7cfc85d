"""``patchcert classes``: accuracies of each class. Also ``python -m jobs.classes``."""

import json
import sys
from dataclasses import dataclass
from typing import Literal

from jobs.patches import AsksPatches


@dataclass(frozen=True, kw_only=True)
class ClassesConfig(AsksPatches):
    """Which accuracies of which run.

    Attributes:
        run_id: Which run, or the beginning of its id; may be left out where --out holds one only.
        patch: Only certificates against these, as in certify [all that are stored].
        rule: Only certificates of this rule, or all [exact; of a --randomized run, randomized].
        sort: Classes in order, or those of the lowest accuracy in the last column first.
        out: Folder of all results, local or s3://.
        json: Print JSON instead of a table, with every certificate.
    """

    run_id: str | None = None
    patch: tuple[int | str, ...] | None = None
    rule: str | None = None
    sort: Literal["label", "worst"] = "label"
    out: str = "out"
    json: bool = False


def run_classes(what: ClassesConfig) -> int:
    """Print a row a class.

    Raises:
        ConfigError: There is no such run, or no such certificate.
        ManifestError, StoreError: Votes or certificates are absent, incomplete or contradictory.
    """
    # Arrow: --help and usage errors must not wait for it.
    from rich.console import Console  # noqa: PLC0415

    from pipeline.questions import open_run  # noqa: PLC0415
    from pipeline.questions.classes import by_class, class_names, columns  # noqa: PLC0415
    from pipeline.questions.outcomes import outcomes_of  # noqa: PLC0415
    from pipeline.report.analysis_tables import print_classes  # noqa: PLC0415

    run = open_run(what.out, what.run_id)
    outcomes = outcomes_of(run)
    questions = columns(outcomes, what.threats, what.rule)
    rows = by_class(outcomes)
    if what.sort == "worst":
        rows.sort(key=lambda row: row.shares[questions[-1]].value or 0.0)
    if what.json:
        print(json.dumps({"run_id": run.run_id, "classes": [row.to_dict() for row in rows]}))
    else:
        print_classes(rows, questions, class_names(run.manifest), Console(highlight=False))
        print(f"run_id={run.run_id}")
    return 0


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["classes", *sys.argv[1:]]))
