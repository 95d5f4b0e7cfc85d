"""What votes can answer that ended once what was asked was decided (``--decide``).

Every question of stored votes passes through here: ``questions_of`` those about certificates, and
``ballots.votes_array`` all others.
"""

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from models.ablation import Ablation
from pipeline.certificates.curtailment import Curtailment, settled
from pipeline.certificates.votes import renumbered
from pipeline.config import ConfigError

if TYPE_CHECKING:
    from pipeline.claims import Questions
    from pipeline.resolve import Voter


class Asked(Protocol):
    """Whose votes they are.

    Attributes:
        curtailment: What was asked; None where every ablation voted.
    """

    @property
    def curtailment(self) -> Curtailment | None: ...  # noqa: D102


def demand_all_votes(voted: Asked, asker: str) -> None:
    """Raise ConfigError unless every ablation voted; ``asker`` is what needs that."""
    if voted.curtailment is not None:
        raise ConfigError(
            f"{asker}: it needs votes that this run (--decide) has not cast. An image's vote ended "
            f"once its prediction and {voted.curtailment} were decided; ask for these, or vote "
            "again without --decide"
        )


def demand_asked(voted: Asked, questions: "Questions", stride: int | None) -> None:
    """Raise ConfigError where unfinished votes were not cast for a question.

    Args:
        voted: Whose votes they are.
        questions: What is asked of them.
        stride: Of the run's own ablations.
    """
    asked = voted.curtailment
    if asked is None:
        return
    if questions.alerts:
        demand_all_votes(voted, "--detect")
    for claim in sorted(questions.claims, key=lambda claim: claim.order):
        for flag, value, answered in (
            ("stride", claim.stride, claim.stride == stride),
            ("top-k", claim.top_k, claim.top_k == 1),
            ("rule", claim.rule, claim.rule in asked.rules),
            ("patch", claim.threat, claim.threat in asked.threats),
        ):
            if not answered:
                demand_all_votes(voted, f"--{flag} {value}")


def curtailment_of(questions: "Questions") -> Curtailment:
    """What an image's votes have to decide so that these questions can be answered.

    Raises:
        ConfigError: One of them needs every vote.
    """
    places = {claim.top_k for claim in questions.claims}
    if questions.alerts or places != {1}:
        what = "--detect" if questions.alerts else f"--top-k {max(places)}"
        raise ConfigError(f"{what}: it needs every vote; leave out --decide")
    threats = tuple(claim.threat for claim in questions.claims)
    try:
        return Curtailment(threats, tuple(claim.rule for claim in questions.claims))
    except ValueError as error:
        raise ConfigError(str(error)) from error


class Suffices:
    """Whether the votes that some images have so far decide what is asked of a run."""

    def __init__(self, voter: "Voter") -> None:
        assert voter.curtailment is not None, "asked of a run with --decide"
        self._asked, self._classes = voter.curtailment, voter.classes
        self._num_classes = len(voter.classes or range(voter.num_classes))
        self._ablation: Ablation = voter.ablation

    def __call__(self, votes_nv: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Votes (N, V), -1 where not cast, to bool (N,)."""
        votes = renumbered(votes_nv, self._classes)
        return settled(votes, self._ablation, self._num_classes, self._asked)
