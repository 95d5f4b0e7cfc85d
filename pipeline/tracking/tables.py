"""Tables that MLflow's compare view shows, replaced where they are there already."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.runs.schema import Summary
from pipeline.tracking.server import Tracker

# Where MLflow's pages look for tables.
_TAG = "mlflow.loggedArtifacts"


def log_table(tracker: Tracker, run: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Log a table as ``<name>.json``; ``mlflow.log_table`` would append to an earlier one."""
    if not rows:
        return
    columns = list(rows[0])
    table = {"columns": columns, "data": [[row[key] for key in columns] for row in rows]}
    tracker.client.log_text(run, json.dumps(table), f"{name}.json")
    known = json.loads(tracker.client.get_run(run).data.tags.get(_TAG, "[]"))
    entry = {"path": f"{name}.json", "type": "table"}
    if entry not in known:
        tracker.client.set_tag(run, _TAG, json.dumps([*known, entry]))


def claims_table(summary: Summary) -> list[dict[str, Any]]:
    """One row a claim: what is certified of how many images, with the 95 % interval."""
    claim = ("threat", "rule", "top_k", "stride", "confidence", "assumes", "tau")
    names = (*claim, "clean", "value", "low", "high", "hits", "of", "images_certified", "alerts")
    rows: list[dict[str, Any]] = [
        {**entry, "clean": entry["clean_accuracy"]["value"]}
        for entry in summary["certified_accuracy"]
    ]
    return [{name: row[name] for name in names} for row in rows]
