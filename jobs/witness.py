"""``patchcert witness``: rewritten votes for every missing certificate."""

import json
import sys

from pipeline.analysis import open_run
from pipeline.attack import MEANING
from pipeline.attack.config import WitnessConfig
from pipeline.attack.witness import replay_witnesses
from pipeline.certificates.rules import rule_of_locations
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
        "patch_px": replayed.patch.width,
        "rule": rule_of_locations().name,
        "images": replayed.images,
        "certified": replayed.certified,
        "witnesses": replayed.witnesses,
        "failures": len(replayed.failures),
    }
    if output.json:
        print(json.dumps(summary, indent=2, sort_keys=True))
    else:
        print(
            f"patch {replayed.patch}, {replayed.images} images: {replayed.witnesses} have no "
            f"certificate, and each a witness that changes its prediction; the closest rewriting "
            f"of the {replayed.certified} certified ones changes none"
            if not replayed.failures
            else f"patch {replayed.patch}: {len(replayed.failures)} of {replayed.images} images "
            f"contradict the {rule_of_locations().name} rule"
        )
        print(f"{'witnesses:':14}{replayed.rows_path}")
        print(f"run_id={store.run_id}")
    for line in replayed.failures[:_MOST_TOLD]:
        print(f"patchcert: {line}", file=sys.stderr)
    if replayed.failures:
        print(f"patchcert: {MEANING}: {store.folder}", file=sys.stderr)
    return 1 if replayed.failures else 0
