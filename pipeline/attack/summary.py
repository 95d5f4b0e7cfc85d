"""Summarise an attack: certified <= true <= empirical robust accuracy, and counts of patches."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from models.views.threats import Threat
from pipeline.attack.selection import Margins, Selected
from pipeline.scoring.intervals import Proportion


def summarise(
    margins: Margins, selected: Selected, threat: Threat, rows: pa.Table
) -> dict[str, Any]:
    """Return the summary as plain JSON.

    Of the run's labelled images, C are right and certified, and U are right and not certified; the
    attacks broke all but s of n images drawn from the U. So the true robust accuracy lies between
    C and, if no stronger attack is known, the estimate (C + U s / n), each over the labelled ones.
    Its interval is Wilson's for s / n, scaled in the same way: about these images, not about others
    like them. It is an upper bound from these attacks only.

    Args:
        margins: Margins of the whole run.
        selected: The images attacked.
        threat: What the attacker may do.
        rows: Rows of ATTACKS.
    """
    right, certified = margins.right_n, margins.certified_n
    certified_right, open_right = int((right & certified).sum()), int((right & ~certified).sum())
    groups = {
        name: _group(rows.filter(pc.equal(rows["certified"], wanted)), selected, wanted=wanted)
        for name, wanted in (("certified", True), ("uncertified", False))
    }
    return {
        "threat": str(threat),
        "patch_px": threat.side,
        "rule": selected.asked[0].target.rule.name,
        "images": margins.images,
        "images_labelled": margins.labelled,
        "smoothed_accuracy": Proportion(int(right.sum()), margins.labelled).to_dict(),
        "certified_accuracy": Proportion(certified_right, margins.labelled).to_dict(),
        "empirical_accuracy": _empirical(
            certified_right, open_right, margins.labelled, groups["uncertified"]
        ),
        "attacked": groups,
    }


def _group(rows: pa.Table, selected: Selected, *, wanted: bool) -> dict[str, Any]:
    """Count over the patches on certified images, or on the others."""
    broken = set(rows.filter(rows["success"])["image_id"].to_pylist())
    wrong = set(rows.filter(pc.invert(rows["right_after"].fill_null(True)))["image_id"].to_pylist())
    images = int((selected.certified_n == wanted).sum())
    return {
        "images": images,
        "patches": rows.num_rows,
        "patches_that_succeeded": pc.sum(rows["success"]).as_py() or 0,
        "images_changed": len(broken),
        "images_wrong": len(wrong),
        # A mean over patches; null where there was none.
        "mean_touched": pc.mean(rows["touched"]).as_py(),
        "mean_flipped": pc.mean(rows["flipped"]).as_py(),
        "untouched_votes": rows.num_rows * selected.votes.shape[1]
        - (pc.sum(rows["touched"]).as_py() or 0),
        "untouched_votes_changed": pc.sum(rows["untouched_changed"]).as_py() or 0,
        "untouched_logits_changed": pc.sum(rows["untouched_logits_changed"]).as_py() or 0,
    }


def _empirical(
    certified_right: int, open_right: int, labelled: int, attacked: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the estimate with its interval; None where nothing can be said."""
    if not labelled or (open_right and not attacked["images"]):
        return None
    kept = Proportion(attacked["images"] - attacked["images_wrong"], attacked["images"])
    share, (low, high) = kept.value or 0.0, kept.interval() or (0.0, 0.0)
    return {
        "value": (certified_right + open_right * share) / labelled,
        "low": (certified_right + open_right * low) / labelled,
        "high": (certified_right + open_right * high) / labelled,
        "open_images": open_right,
        "kept": kept.to_dict(),
    }
