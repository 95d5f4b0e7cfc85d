"""A sweep as one table: a row a point."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from pipeline.claims import ablation_of
from pipeline.manifest import Manifest
from pipeline.sweep.grid import Answer


def summary_at(
    summary: Mapping[str, Any], manifest: Manifest, stride: int | None
) -> dict[str, Any]:
    """What a summary says of one stride, as if a run of that stride alone had been certified.

    Args:
        summary: Of a run.
        manifest: Of the same run.
        stride: A stride that was asked about; None for the run's own.

    Raises:
        StopIteration: Nothing was asked of that stride.
    """
    if stride is None:
        own = manifest.ablation.stride if _is_fixed(manifest) else None
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
        # Known of the run's own ablations only.
        "mean_ablation_accuracy": None,
        "largest": {"of": summary["largest"]["of"], "patch_px": [], "hits": {}},
        "certified_accuracy": _of_stride(summary["certified_accuracy"], stride),
        "detection": _of_stride(summary["detection"], stride),
        "coarser": [],
    }


def _is_fixed(manifest: Manifest) -> bool:
    return manifest.draws is None and manifest.ablation.random is None


def _of_stride(entries: Sequence[dict[str, Any]], stride: int | None) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["stride"] == stride]


def row_of(
    answer: Answer, manifest: Manifest | None, summary: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A point as a row; without a summary, one that failed or was not run.

    Args:
        answer: The point.
        manifest: Of the run that answers it.
        summary: At the point's stride, as from ``summary_at``.
    """
    wanted, config = answer.point.wanted, answer.point.config
    row: dict[str, Any] = {
        "weights": PurePath(config.weights).name,
        "ablation": wanted.ablation.kind,
        "size": wanted.ablation.size,
        "stride": answer.point.stride,
        "tokens": wanted.identity["tokens"],
        "voting": config.voting,
        "dtype": wanted.identity["numerics"]["dtype"],
        "views": wanted.draws or len(ablation_of(wanted, answer.point.stride)),
        "run_id": answer.run_id,
        "votes of": None if answer.stride is None else "finer stride",
        "smoothed": None,
        "certified": {},
        "images/s": None,
    }
    if summary is None or manifest is None:
        return row
    seconds = manifest.execution.get("voting_seconds")
    if answer.stride is not None:
        row["votes of"] = f"stride {manifest.ablation.stride}"
    elif seconds:
        row["images/s"] = summary["images"] / seconds
    row["smoothed"] = summary["smoothed_accuracy"]["value"]
    row["certified"] = {_claim(entry): entry["value"] for entry in summary["certified_accuracy"]}
    return row


def _claim(entry: Mapping[str, Any]) -> str:
    places = "" if entry["top_k"] == 1 else f" top {entry['top_k']}"
    return f"{entry['rule']}{places} {entry['threat']}"


def flat(row: Mapping[str, Any], claims: Sequence[str]) -> dict[str, Any]:
    """A row with a column for each claim, for a table that knows no nesting."""
    plain = {name: value for name, value in row.items() if name != "certified"}
    return plain | {claim: row["certified"].get(claim) for claim in claims}


def claims_in(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every claim of any row, in order."""
    return list(dict.fromkeys(claim for row in rows for claim in row["certified"]))
