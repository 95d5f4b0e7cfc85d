"""Tables that MLflow's compare view shows, replaced where they are there already."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

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


def claims_table(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a claim: what is certified of how many images, with the 95 % interval."""
    names = (
        "threat",
        "rule",
        "top_k",
        "stride",
        "confidence",
        "value",
        "low",
        "high",
        "hits",
        "of",
    )
    return [
        {name: entry[name] for name in names} | {"images_certified": entry["images_certified"]}
        for entry in summary["certified_accuracy"]
    ]
