"""How many votes ``--decide`` would have saved: the votes of a finished run, replayed.

In the order and with the looks of ``models.order``, so that an image ends exactly where a run with
``--decide`` would end it. Shape suffixes: N images, V ablations.
"""

import time
from typing import Any

import numpy as np

from models.ablation import Ablation, IntArray
from models.order import looks, spread
from pipeline.certificates.curtailment import Curtailment, bracket, settled
from pipeline.certificates.partial import MISSING, partial_polls
from pipeline.certificates.rules import margins
from pipeline.certificates.votes import VoteArray
from pipeline.config import ConfigError
from pipeline.questions.run import Run


def replays(run: Run, asked: Curtailment) -> list[dict[str, Any]]:
    """What each threat alone and all together would have saved.

    Raises:
        ConfigError: The run has sets of votes, drawn positions, or not all votes.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    run.check_fixed()
    if run.manifest.theta is not None:
        raise ConfigError(f"run {run.run_id}: its ablations vote for sets, which never end early")
    votes = run.renumbered(run.votes.votes.astype(np.int64))
    alone = [Curtailment((threat,), asked.rules) for threat in asked.threats]
    together = [asked] if len(alone) > 1 else []
    return [replay(votes, run.ablation, run.num_classes, some) for some in [*alone, *together]]


def replay(
    votes: VoteArray, ablation: Ablation, num_classes: int, asked: Curtailment
) -> dict[str, Any]:
    """Votes cast, time of the test, and answers held against those of all votes; plain JSON.

    Args:
        votes: All votes; (N, V).
        ablation: What voted.
        num_classes: Number of classes.
        asked: What is to be decided.
    """
    start = time.perf_counter()
    ends_n = ends(votes, ablation, num_classes, asked)
    seconds = time.perf_counter() - start
    cast = int(ends_n.sum())
    questions = asked.to_dict()
    return {
        "name": f"{' '.join(questions['threats'])} {' '.join(questions['rules'])}",
        **questions,
        "images": len(votes),
        "votes_cast": cast,
        "of": votes.size,
        "share_saved": 1 - cast / votes.size if votes.size else None,
        "images_ended": int((ends_n < len(ablation)).sum()),
        "answers_that_differ": _differing(votes, ends_n, ablation, num_classes, asked),
        "seconds": seconds,
    }


def ends(votes: VoteArray, ablation: Ablation, num_classes: int, asked: Curtailment) -> IntArray:
    """After how many votes each image ends; int64 (N,). Arguments as ``replay``."""
    ends_n = np.full(len(votes), len(ablation), np.int64)
    open_n = np.arange(len(votes))
    place_v = np.argsort(spread(ablation))
    for count in looks(len(ablation))[:-1]:
        part = np.where(place_v < count, votes[open_n], MISSING)
        ended_n = settled(part, ablation, num_classes, asked)
        ends_n[open_n[ended_n]] = count
        open_n = open_n[~ended_n]
    return ends_n


def _differing(
    votes: VoteArray, ends_n: IntArray, ablation: Ablation, num_classes: int, asked: Curtailment
) -> int:
    """Predictions and certificates that the votes cast do not decide as all votes do."""
    place_v = np.argsort(spread(ablation))
    part = np.where(place_v < ends_n[:, None], votes, MISSING)
    full = {
        (threat, rule): margins(rule, votes, ablation, threat, num_classes) >= 0
        for threat in asked.threats
        for rule in asked.rules
    }
    wrong = 0
    for images, poll in partial_polls(part, ablation, num_classes):
        counts_nc = np.stack([(votes[images] == c).sum(axis=1) for c in range(num_classes)], axis=1)
        right = poll.foregone_n & (poll.predictions_n == counts_nc.argmax(axis=1))
        wrong += int((~right).sum())
        for (threat, rule), certified_n in full.items():
            found = bracket(poll, threat, rule)
            same = found.decided_n & ((found.lower_n >= 0) == certified_n[images])
            wrong += int((~same).sum())
    return wrong
