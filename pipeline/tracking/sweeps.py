"""A sweep in MLflow: a parent, and a run nested in it for every point.

A run has one MLflow run, wherever it was asked for; a sweep takes it as a child. Points that have
no votes of their own get a child that says whose votes answer them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any, Self

from pipeline.config import ClaimsConfig
from pipeline.runs.manifest import Manifest, canonical, flatten
from pipeline.runs.schema import Summary
from pipeline.tracking.certified import log_summary
from pipeline.tracking.description import RUN_ID, STRIDE, dataset_name, origin, run_name, tags_of
from pipeline.tracking.server import Tracker, connect, failures_said, tracking_uri
from pipeline.tracking.tables import log_table

_SWEEP, _ANSWERED_FROM, _PARENT = (
    "patchcert.sweep",
    "patchcert.answered_from",
    "mlflow.parentRunId",
)
_REMEDY = "Votes and certificates are written; run the same sweep again to log what is absent"


class TrackedSweep:
    """The parent of a sweep, one for all sweeps over the same images in an experiment.

    Args:
        wanted: Manifest of one of the points, for what all have in common.
        axes: What varies, for the record.
        claims: Where to log.
        out: Folder of all results.

    Attributes:
        claims: The same for the points; nothing is logged of them where MLflow fails at the start.
            Whatever it raises is said on standard error, and ends no sweep.
    """

    def __init__(
        self, wanted: Manifest, axes: Mapping[str, Any], claims: ClaimsConfig, out: str
    ) -> None:
        self._claims, self._out, self._failed = claims, out, False
        self.claims = claims
        self._tracker: Tracker | None = None
        if tracking_uri(claims, out) is None:
            return
        remedy = "The sweep begins all the same; run it again to log it"
        with failures_said(claims, out, remedy):
            tracker = connect(claims, out)
            assert tracker is not None
            key = hashlib.sha256(canonical(asdict(wanted.data))).hexdigest()[:16]
            name = f"sweep over {dataset_name(wanted)}"
            found = tracker.find({_SWEEP: key}) or tracker.create(name, {_SWEEP: key})
            self._parent = str(found.info.run_id)
            data = {
                "patchcert.data": wanted.execution.data,
                "patchcert.data_fingerprint": wanted.data.fingerprint,
                "patchcert.sweep.axes": json.dumps(axes),
            }
            tracker.set(self._parent, tags=data | origin(), params={})
            tracker.client.update_run(self._parent, status="RUNNING")
            self._tracker = tracker
        if self._tracker is None:
            # Every point would wait for it in turn.
            self.claims = replace(claims, mlflow="none")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._tracker is None:
            return
        status = "FAILED" if error is not None or self._failed else "FINISHED"
        with failures_said(self._claims, self._out, _REMEDY):
            self._tracker.client.set_terminated(self._parent, status=status)

    def adopt(self, run_id: str) -> None:
        """Nest the MLflow run of a run, unless it is another sweep's."""
        if self._tracker is None:
            return
        with failures_said(self._claims, self._out, _REMEDY):
            found = self._tracker.find({RUN_ID: run_id})
            if found is not None and _PARENT not in found.data.tags:
                self._tracker.client.set_tag(found.info.run_id, _PARENT, self._parent)

    def answered(self, manifest: Manifest, wanted: Manifest, summary: Summary, stride: int) -> None:
        """Log a point that a run of a finer stride answers.

        Args:
            manifest: Of that run.
            wanted: What a run of the point itself would be.
            summary: At the point's stride.
            stride: The point's.
        """
        if self._tracker is None:
            return
        tracker = self._tracker
        with failures_said(self._claims, self._out, _REMEDY):
            key = {_ANSWERED_FROM: manifest.run_id, STRIDE: str(stride)}
            name = f"{run_name(wanted)} (from s{manifest.defense.own_stride})"
            found = tracker.find(key) or tracker.create(name, {**key, _PARENT: self._parent})
            run = str(found.info.run_id)
            tags = {name: value for name, value in tags_of(manifest).items() if name != RUN_ID}
            tracker.set(run, tags=tags | key, params=flatten(wanted.identity))
            log_summary(tracker, run, wanted, summary)
            tracker.finish(run)

    def end(self, rows: Sequence[Mapping[str, Any]], *, failed: bool) -> None:
        """Log the table of all points.

        Args:
            rows: A row a point, without nesting.
            failed: Whether a point has no answer.
        """
        self._failed = failed
        if self._tracker is None:
            return
        with failures_said(self._claims, self._out, _REMEDY):
            log_table(self._tracker, self._parent, "sweep", rows)
