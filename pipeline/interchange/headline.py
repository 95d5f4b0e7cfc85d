"""The headline of an export: every figure with its counts, its interval and what it claims."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.certificates.randomized import CONFIDENCE
from pipeline.certificates.rules import rule_for
from pipeline.certificates.threats import Threat
from pipeline.manifest import AS_GIVEN, Manifest

FORMAT = "patchcert export 1"

_OF = "of the labelled images; one with an error counts as wrong, one without a label is left out"
_COMPUTED = (
    "computed by patchcert as manifest.json says; what is proven, tested and assumed of them is in "
    "docs/soundness.md"
)


def headline(
    manifest: Manifest,
    summary: Mapping[str, Any],
    version: str,
    files: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The ``summary.json`` of an export.

    Args:
        manifest: The run.
        summary: Its accuracies (``Tally.summary``).
        version: Of this program.
        files: The other files of the folder, with their sha256.
    """
    identity = manifest.identity
    certified = summary["certified_accuracy"]
    return {
        "format": FORMAT,
        "exported_by": f"patchcert {version}",
        "run_id": manifest.run_id,
        "votes": AS_GIVEN if manifest.imported else _COMPUTED,
        "model": dict(identity["model"]),
        "data": {name: identity["data"].get(name) for name in ("kind", "fingerprint")},
        "ablation": asdict(manifest.ablation),
        "ablations": summary["ablations"],
        "tokens": identity.get("tokens"),
        "versions": identity.get("numerics", {}).get("versions", identity.get("versions", {})),
        "images": summary["images"],
        "images_with_error": summary["images_with_error"],
        "images_without_label": summary["images_without_label"],
        "interval": "95 % Wilson score interval",
        "patches": list(dict.fromkeys(entry["threat"] for entry in certified)),
        "rules": {
            name: rule_for(
                name, randomized=confidence is not None, confidence=confidence or CONFIDENCE
            ).guarantee
            for name, confidence in sorted({(e["rule"], e["confidence"]) for e in certified})
        },
        "figures": [
            _figure(
                "plain_accuracy",
                summary["plain_accuracy"],
                f"the network classifies the whole image rightly; share {_OF}",
            ),
            _figure(
                "smoothed_accuracy",
                summary["smoothed_accuracy"],
                f"the class with most votes (the lowest on ties) is right; share {_OF}",
            ),
            {
                "figure": "mean_ablation_accuracy",
                "claim": "share of single ablations that vote for a right class, over the labelled "
                "images",
                "value": summary["mean_ablation_accuracy"],
            },
            *(_figure("certified_accuracy", entry, _claim(entry, manifest)) for entry in certified),
        ],
        "files": {name: dict(facts) for name, facts in files.items()},
    }


def _figure(name: str, entry: Mapping[str, Any], claim: str) -> dict[str, Any]:
    return {"figure": name, "claim": claim, **entry}


def _claim(entry: Mapping[str, Any], manifest: Manifest) -> str:
    """What a certified accuracy says, in one sentence."""
    ablation, threat = manifest.ablation, Threat.parse(entry["threat"])
    if threat.area is not None:
        where = f"any one rectangle of at most {threat.area} px"
    else:
        where = f"any {threat.count} squares of" if threat.count > 1 else "any one square of"
        if threat.patch is not None and threat.patch.height != threat.patch.width:
            where = where.replace("square", "rectangle")
        where += f" {threat.patch}"
    sure = ""
    if entry["confidence"] is not None:
        # Never let a probabilistic certificate pass for a proof.
        sure = f", with confidence {entry['confidence']:g} an image, of the ideal classifier"
    return (
        f"the smoothed prediction is right and stays so whatever is written into {where} of the "
        f"{ablation.height}x{ablation.width} px image, wherever{sure}; share {_OF}"
    )
