"""``patchcert classes``: accuracies of each class."""

import json
from dataclasses import dataclass
from typing import Literal

from cyclopts import Parameter
from rich.console import Console

from jobs.patches import AsksPatches
from pipeline.analysis import open_run
from pipeline.analysis.classes import by_class, class_names, columns
from pipeline.analysis.outcomes import outcomes_of
from pipeline.report.analysis_tables import print_classes


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ClassesConfig(AsksPatches):
    """Run and accuracies that are shown.

    Attributes:
        run_id: Which run, or the beginning of its id; may be left out where --out holds one only.
        patch: Only certificates against these, as in certify [all that are stored].
        rule: Only certificates of this rule [the tightest asked: exact, of masks two-location, of a
            --randomized run randomized].
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


def classes(*, what: ClassesConfig = ClassesConfig()) -> int:
    """Show the accuracies of each class with their intervals.

    Raises:
        ConfigError: There is no such run, or no such certificate.
        ManifestError, StoreError: Votes or certificates are absent, incomplete or contradictory.
    """
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
