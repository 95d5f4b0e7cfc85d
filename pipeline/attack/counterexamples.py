"""Failures on disk: all that is needed to look at one, and to report it."""

import json
from collections.abc import Sequence

import numpy as np

from pipeline import storage
from pipeline.attack import MEANING
from pipeline.attack.campaign import Campaign
from pipeline.attack.source import encode
from pipeline.attack.verdict import Failure, Voted

# One is enough to refute a certificate; of a broken machine every image would be one.
_MOST = 20


def save_counterexamples(
    folder: str, failures: Sequence[Failure], campaign: Campaign, clean: Voted, attacked: Voted
) -> list[str]:
    """Write the first failures, a folder each; their paths.

    Each holds ``image.png`` and, where there was a patch, ``attacked.png``, both on the attacker's
    grid, and ``counterexample.json``: where the patch lies, votes before and after, the numbers of
    the ablations that may not have changed, and the run's identity.

    Args:
        folder: Where.
        failures: What happened.
        campaign: The attacks.
        clean: Of the unpatched copies.
        attacked: Of the attacks.
    """
    _clear(folder)
    victims = campaign.victims
    paths = []
    for number, failure in enumerate(failures[:_MOST]):
        path = storage.join(folder, f"{number:02d}-{failure.kind}")
        facts = {
            "kind": failure.kind,
            "what": failure.text,
            "meaning": MEANING,
            "run_id": campaign.manifest.run_id,
            "image_id": victims.image_ids[failure.image],
            "patch": list(campaign.patch),
            "margin": int(victims.margins_n[failure.image]),
            "prediction_before": int(victims.predictions_n[failure.image]),
            "votes_stored": victims.votes[failure.image].tolist(),
            "votes_unpatched": clean.votes[failure.image].tolist(),
            "ablations_that_may_not_change": failure.views.tolist(),
            "identity": dict(campaign.manifest.identity),
        }
        storage.write_atomically(
            storage.join(path, "image.png"), encode(campaign.images[failure.image])
        )
        if failure.attack is not None:
            attempt = campaign.attempts[failure.attack]
            facts |= {
                "y": attempt.y,
                "x": attempt.x,
                "ablations_that_see_the_patch": np.flatnonzero(attempt.seen_v).tolist(),
                "prediction_after": int(attacked.predictions_r[failure.attack]),
                "votes_after": attacked.votes[failure.attack].tolist(),
            }
            storage.write_atomically(
                storage.join(path, "attacked.png"), encode(campaign.patched[failure.attack])
            )
        text = json.dumps(facts, indent=2, sort_keys=True) + "\n"
        storage.write_atomically(storage.join(path, "counterexample.json"), text.encode())
        paths.append(path)
    return paths


def _clear(folder: str) -> None:
    """Remove what an earlier attack left: it may be mended since."""
    for name in storage.list_folders(folder):
        for path in storage.list_files(storage.join(folder, name)):
            storage.remove(path)
