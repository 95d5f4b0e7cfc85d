"""One summary of several runs of one defense over different images."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

from pipeline.runs.schema import (
    AlertName,
    CertifiedEntry,
    CoarserEntry,
    DetectionCurve,
    LargestEntry,
    Share,
    Summary,
)
from pipeline.scoring.claims import Claim
from pipeline.scoring.intervals import Proportion

_Entry = TypeVar("_Entry")


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


def _in_all(
    runs: Sequence[Iterable[_Entry]], key: Callable[[_Entry], Hashable]
) -> Iterator[list[_Entry]]:
    """Yield the entries of each key that all runs have, one a run, in the first run's order."""
    keyed = [{key(entry): entry for entry in entries} for entries in runs]
    for name in keyed[0]:
        if all(name in run for run in keyed):
            yield [run[name] for run in keyed]


def _claims(answers: Sequence[Sequence[CertifiedEntry]]) -> list[CertifiedEntry]:
    found: list[CertifiedEntry] = []
    for entries in _in_all(answers, Claim.from_dict):
        first = entries[0]
        whole: CertifiedEntry = {
            **first,
            **_share(entries),
            "clean_accuracy": _share(one["clean_accuracy"] for one in entries),
            # Of a threat on the source they depend on the images.
            "max_touched": max(one["max_touched"] for one in entries),
            "image_share": max(one["image_share"] for one in entries),
            "alerts": None
            if first["alerts"] is None
            else sum(one["alerts"] or 0 for one in entries),
            "images_certified": sum(one["images_certified"] for one in entries),
        }
        if "on_grid" in first:
            sizes = dict.fromkeys(size for one in entries for size in one["on_grid"])
            whole["on_grid"] = {
                size: sum(one["on_grid"].get(size, 0) for one in entries) for size in sizes
            }
            whole["images_too_large"] = sum(one["images_too_large"] for one in entries)
        found.append(whole)
    return found


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
    return [
        {**entries[0], "smoothed_accuracy": _share(one["smoothed_accuracy"] for one in entries)}
        for entries in _in_all(answers, lambda entry: entry["stride"])
    ]


def _curves(answers: Sequence[Sequence[DetectionCurve]]) -> list[DetectionCurve]:
    """Sum curves at the thresholds where every run is known; above a run's last it has no image."""
    found: list[DetectionCurve] = []
    for curves in _in_all(answers, lambda curve: (curve["threat"], curve["stride"])):
        every = sorted({tau for one in curves for tau in one["tau"]})
        taus = [
            tau for tau in every if all(tau in one["tau"] or tau > one["tau"][-1] for one in curves)
        ]
        found.append(
            {
                **curves[0],
                "of": sum(one["of"] for one in curves),
                "tau": taus,
                "clean": _at(taus, curves, "clean"),
                "certified_recovery": _at(taus, curves, "certified_recovery"),
                "certified_detection": _at(taus, curves, "certified_detection"),
            }
        )
    return found


def _at(taus: Sequence[int], curves: Sequence[DetectionCurve], name: AlertName) -> list[int]:
    """Sum what curves count at each threshold."""
    counts = [dict(zip(curve["tau"], curve[name], strict=True)) for curve in curves]
    return [sum(run.get(tau, 0) for run in counts) for tau in taus]
