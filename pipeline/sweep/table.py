"""Table of a sweep: one row a combination."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

from models.views.masks import Masks
from pipeline.runs.manifest import Manifest
from pipeline.runs.resolve import default_threats
from pipeline.runs.schema import CertifiedEntry, DetectionCurve, Summary
from pipeline.scoring.words import other_size
from pipeline.sweep.grid import Origin

_Entry = TypeVar("_Entry", CertifiedEntry, DetectionCurve)


def summary_at(summary: Summary, manifest: Manifest, stride: int | None) -> Summary:
    """Restrict a summary to one stride, as if only a run of that stride had been certified.

    Args:
        summary: Summary of a run.
        manifest: Manifest of the same run.
        stride: A stride that was certified; None for the run's own.

    Raises:
        StopIteration: That stride was not certified.
    """
    if stride is None:
        own = manifest.defense.own_stride
        return {
            **summary,
            "certified_accuracy": _of_stride(summary["certified_accuracy"], own),
            "detection": _of_stride(summary["detection"], own),
            "coarser": [],
        }
    coarser = next(entry for entry in summary["coarser"] if entry["stride"] == stride)
    return {
        **summary,
        "ablations": coarser["ablations"],
        "smoothed_accuracy": coarser["smoothed_accuracy"],
        # Known for the run's own ablations only.
        "mean_ablation_accuracy": None,
        "largest": {"of": summary["largest"]["of"], "patch_px": [], "hits": {}},
        "certified_accuracy": _of_stride(summary["certified_accuracy"], stride),
        "detection": _of_stride(summary["detection"], stride),
        "coarser": [],
    }


def _of_stride(entries: Sequence[_Entry], stride: int | None) -> list[_Entry]:
    return [entry for entry in entries if entry["stride"] == stride]


def row_of(origin: Origin, manifest: Manifest | None, summary: Summary | None) -> dict[str, Any]:
    """Build the row of a combination; without a summary, of one that failed or did not run.

    Args:
        origin: The combination and the run that answers it.
        manifest: Manifest of that run.
        summary: Summary at the combination's stride, as from ``summary_at``.
    """
    wanted, config = origin.combination.wanted, origin.combination.config
    views = wanted.defense.views
    row: dict[str, Any] = {
        "weights": PurePath(config.weights).name,
        "ablation": views.describe().shape,
        "size": views.describe().size,
        "stride": origin.combination.stride,
        "covers": None,
        "masks": None,
        "tokens": wanted.defense.tokens,
        "voting": config.voting,
        "dtype": wanted.numerics.dtype,
        "views": wanted.defense.voting.draws
        or len(wanted.defense.views_at(origin.combination.stride)),
        "run_id": origin.run_id,
        "votes of": None if origin.stride is None else "finer stride",
        "smoothed": None,
        "clean": {},
        "certified": {},
        "images/s": None,
    }
    if isinstance(views, Masks):
        row["covers"] = ", ".join(map(str, default_threats(views)))
        row["masks"] = len(views.masks)
    if summary is None or manifest is None:
        return row
    seconds = manifest.execution.voting_seconds
    if origin.stride is not None:
        row["votes of"] = f"stride {manifest.defense.own_stride}"
    elif seconds:
        row["images/s"] = summary["images"] / seconds
    row["smoothed"] = summary["smoothed_accuracy"]["value"]
    # Of the others it is the smoothed accuracy.
    row["clean"] = {
        _claim(entry): entry["clean_accuracy"]["value"]
        for entry in summary["certified_accuracy"]
        if entry["assumes"] is not None
    }
    row["certified"] = {_claim(entry): entry["value"] for entry in summary["certified_accuracy"]}
    return row


def _claim(entry: Mapping[str, Any]) -> str:
    """Name a claim by all that sets it apart from the others of a run."""
    words = entry["rule"]
    if entry["top_k"] != 1:
        words += f" top {entry['top_k']}"
    words += f" {entry['threat']}"
    if entry["confidence"] is not None:
        words += f" confidence {entry['confidence']:g}"
    if entry["tau"] is not None:
        words += f" tau {entry['tau']:g}"
    assumed = other_size(entry)
    return words if assumed is None else f"{words} assumes {assumed}"


def flat(row: Mapping[str, Any], claims: Sequence[str]) -> dict[str, Any]:
    """Give a row a column for each claim, for tables without nesting."""
    plain = {name: value for name, value in row.items() if name not in ("clean", "certified")}
    clean = {f"clean {claim}": row["clean"][claim] for claim in claims if claim in row["clean"]}
    return plain | clean | {claim: row["certified"].get(claim) for claim in claims}


def claims_in(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the claims of all rows, in order."""
    return list(dict.fromkeys(claim for row in rows for claim in row["certified"]))
