"""One summary of several runs of one defense over different images."""

from collections.abc import Iterable, Sequence

from pipeline.runs.schema import (
    CertifiedEntry,
    CoarserEntry,
    DetectionCurve,
    LargestEntry,
    Share,
    Summary,
)
from pipeline.scoring.claims import Claim
from pipeline.scoring.intervals import Proportion


def pooled(summaries: Sequence[Summary]) -> Summary:
    """Sum summaries: every accuracy is hits over images, so that the counts add up.

    What not all of them answer is left out: claims, and thresholds of detection curves.

    Args:
        summaries: Of runs of one defense; no image is in two of them.

    Returns:
        The summary that one run over all of these images has; ``run_id`` names all runs.
    """
    first = summaries[0]
    labelled = [one["images"] - one["images_without_label"] for one in summaries]
    found: Summary = {
        "run_id": " ".join(one["run_id"] for one in summaries),
        "images": sum(one["images"] for one in summaries),
        "images_with_error": sum(one["images_with_error"] for one in summaries),
        "images_without_label": sum(one["images_without_label"] for one in summaries),
        "ablations": first["ablations"],
        "hides": first["hides"],
        "plain_accuracy": _share(one["plain_accuracy"] for one in summaries),
        "smoothed_accuracy": _share(one["smoothed_accuracy"] for one in summaries),
        "mean_ablation_accuracy": _mean(
            [one["mean_ablation_accuracy"] for one in summaries], labelled
        ),
        "certified_accuracy": _claims([one["certified_accuracy"] for one in summaries]),
        "largest": _largest([one["largest"] for one in summaries]),
        "coarser": _coarser([one["coarser"] for one in summaries]),
        "detection": _curves([one["detection"] for one in summaries]),
    }
    if "views_asked" in first:
        read = [one["images"] - one["images_with_error"] for one in summaries]
        found["views_asked"] = _mean([one["views_asked"] for one in summaries], read) or 0.0
    return found


def _share(shares: Iterable[Share]) -> Share:
    counts = [(share["hits"], share["of"]) for share in shares]
    hits, of = map(sum, zip(*counts, strict=True))
    return Proportion(hits, of).to_dict()


def _mean(values: Sequence[float | None], weights: Sequence[int]) -> float | None:
    """Weight the values that are known."""
    known = [(value, n) for value, n in zip(values, weights, strict=True) if value is not None]
    of = sum(n for _, n in known)
    return sum(value * n for value, n in known) / of if of else None


def _claims(answers: Sequence[Sequence[CertifiedEntry]]) -> list[CertifiedEntry]:
    by_claim = [{Claim.from_dict(entry): entry for entry in entries} for entries in answers]
    pooled_entries: list[CertifiedEntry] = []
    for claim, entry in by_claim[0].items():
        entries = [run[claim] for run in by_claim if claim in run]
        if len(entries) < len(answers):
            continue
        whole: CertifiedEntry = {
            **entry,
            **_share(entries),
            "clean_accuracy": _share(one["clean_accuracy"] for one in entries),
            # Of a threat on the source they depend on the images.
            "max_touched": max(one["max_touched"] for one in entries),
            "image_share": max(one["image_share"] for one in entries),
            "alerts": None
            if entry["alerts"] is None
            else sum(one["alerts"] or 0 for one in entries),
            "images_certified": sum(one["images_certified"] for one in entries),
        }
        if "on_grid" in entry:
            sizes = dict.fromkeys(size for one in entries for size in one["on_grid"])
            whole["on_grid"] = {
                size: sum(one["on_grid"].get(size, 0) for one in entries) for size in sizes
            }
            whole["images_too_large"] = sum(one["images_too_large"] for one in entries)
        pooled_entries.append(whole)
    return pooled_entries


def _largest(entries: Sequence[LargestEntry]) -> LargestEntry:
    """Sum by side; a run lists sides up to the first that leaves no image, so others are 0."""
    sides = max((entry["patch_px"] for entry in entries), key=len)
    rules = [rule for rule in entries[0]["hits"] if all(rule in one["hits"] for one in entries)]
    return {
        "of": sum(entry["of"] for entry in entries),
        "patch_px": sides,
        "hits": {
            rule: [
                sum(one["hits"][rule][at] for one in entries if at < len(one["hits"][rule]))
                for at in range(len(sides))
            ]
            for rule in rules
        },
    }


def _coarser(answers: Sequence[Sequence[CoarserEntry]]) -> list[CoarserEntry]:
    by_stride = [{entry["stride"]: entry for entry in entries} for entries in answers]
    return [
        {
            **entry,
            "smoothed_accuracy": _share(run[stride]["smoothed_accuracy"] for run in by_stride),
        }
        for stride, entry in by_stride[0].items()
        if all(stride in run for run in by_stride)
    ]


def _curves(answers: Sequence[Sequence[DetectionCurve]]) -> list[DetectionCurve]:
    """Sum curves at the thresholds where every run is known; above a run's last it has no image."""
    by_alert = [{(one["threat"], one["stride"]): one for one in curves} for curves in answers]
    found: list[DetectionCurve] = []
    for alert, curve in by_alert[0].items():
        curves = [run[alert] for run in by_alert if alert in run]
        if len(curves) < len(answers):
            continue
        every = sorted({tau for one in curves for tau in one["tau"]})
        taus = [
            tau for tau in every if all(tau in one["tau"] or tau > one["tau"][-1] for one in curves)
        ]
        found.append(
            {
                **curve,
                "of": sum(one["of"] for one in curves),
                "tau": taus,
                "clean": _at(taus, [(one["tau"], one["clean"]) for one in curves]),
                "certified_recovery": _at(
                    taus, [(one["tau"], one["certified_recovery"]) for one in curves]
                ),
                "certified_detection": _at(
                    taus, [(one["tau"], one["certified_detection"]) for one in curves]
                ),
            }
        )
    return found


def _at(taus: Sequence[int], runs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[int]:
    """Sum what runs count at each threshold."""
    counts = [dict(zip(tau, hits, strict=True)) for tau, hits in runs]
    return [sum(run.get(tau, 0) for run in counts) for tau in taus]
