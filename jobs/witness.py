"""``patchcert witness``: rewritten votes for every missing certificate."""

import json
import sys

from models.views.threats import Threat
from pipeline.analysis import open_run
from pipeline.attack import MEANING
from pipeline.attack.config import WitnessConfig
from pipeline.attack.witness import WitnessResult, replay_witnesses
from pipeline.config import OutputConfig

_MOST_TOLD = 3


def witness(*, what: WitnessConfig = WitnessConfig(), output: OutputConfig = OutputConfig()) -> int:
    """Rewrite stored votes to change every image without a certificate: no model, no images.

    Returns:
        1 if the rule and the votes disagree.
    """
    store = open_run(output.out, what.run_id).store
    replayed = replay_witnesses(store, what)
    summary = {
        "run_id": store.run_id,
        "threat": str(Threat(replayed.patch)),
        "patch_px": Threat(replayed.patch).side,
        "rule": replayed.rule,
        "images": replayed.images,
        "certified": replayed.certified,
        "witnesses": replayed.witnesses,
        "without_witness": replayed.without,
        "failures": len(replayed.failures),
    }
    if output.json:
        print(json.dumps(summary, indent=2, sort_keys=True))
    else:
        print(_said(replayed))
        print(f"{'witnesses:':14}{replayed.rows_path}")
        print(f"run_id={store.run_id}")
    for line in replayed.failures[:_MOST_TOLD]:
        print(f"patchcert: {line}", file=sys.stderr)
    if replayed.failures:
        print(f"patchcert: {MEANING}: {store.folder}", file=sys.stderr)
    return 1 if replayed.failures else 0


def _said(replayed: WitnessResult) -> str:
    """The result in a sentence."""
    images, patch = replayed.images, replayed.patch
    if replayed.failures:
        return (
            f"patch {patch}: {len(replayed.failures)} of {images} images contradict the "
            f"{replayed.rule} rule"
        )
    open_images = replayed.witnesses + replayed.without
    found = "and each a witness that changes its prediction"
    if replayed.without:
        found = (
            f"{replayed.witnesses} of them a witness that changes their prediction (none was found "
            "for the others)"
        )
    return (
        f"patch {patch}, {images} images: {open_images} have no certificate, {found}; the closest "
        f"rewriting of the {replayed.certified} certified ones changes none"
    )
