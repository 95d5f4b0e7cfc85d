"""The interface of a rule: the votes of some images in, predictions and certificates out.

Shape suffixes: N images, S distinct sets of touched views.
"""

from abc import ABC, abstractmethod
from typing import Self

from models.views.ablations import Ablation
from models.views.family import BoolArray, IntArray, Patch
from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch
from pipeline.certificates.touched import CountArray


class Rule(ABC):
    """A rule that decides and certifies predictions from votes.

    Attributes:
        name: Name in commands and tables.
        guarantee: Meaning of a margin >= 0, in one line.
        deterministic: True where the votes must be those of every view of the ablation, in its
            order; False where they must be those of views drawn from it at random. Arrays do not
            tell which they are, so ``rule_for`` is told.
        default: True where the rule is asked if a request names none.
        monotone: True where margins never rise with the views that the attacker can touch:
            ``largest`` relies on it.
        ranks_places: True where ``top_k_margins`` exists.
        series: Number of the colour and the line that draw the rule in figures.
        confidence: Probability, for each image, that its certificate is true; None for a proof.
    """

    name: str
    guarantee: str
    deterministic: bool = True
    default: bool = False
    monotone: bool = True
    ranks_places: bool = False
    series: int = 3
    confidence: float | None = None

    def check(self, views: Ablation, threat: Threat, num_classes: int, top_k: int = 1) -> None:
        """Check that the rule can certify against a threat, before anything is computed.

        Args:
            views: The views that vote.
            threat: What the attacker may do.
            num_classes: Number of classes C.
            top_k: Places to stay in; 1 asks for the prediction itself.

        Raises:
            ValueError: The threat does not fit the image, or the rule does not know such threats or
                places; the message names a rule that does.
        """
        if top_k > 1 and not self.ranks_places:
            fitting = "exact" if self.deterministic else "top_k=1"
            raise ValueError(
                f"top_k={top_k}: the rule {self.name!r} speaks of the prediction alone; "
                f"choose {fitting}"
            )
        threat.patches(views)

    def predict(self, batch: VoteBatch, threat: Threat | None = None) -> IntArray:
        """Predict the class of each image: here the one with the most votes; int64 (N,)."""
        return batch.ranked.predictions

    @abstractmethod
    def margins(self, batch: VoteBatch, threat: Threat) -> IntArray:
        """Compute the margin of each image; int64 (N,), certified iff >= 0.

        Raises:
            ValueError: The rule does not know such threats (``check``).
        """

    def top_k_margins(
        self, batch: VoteBatch, threat: Threat, k: int, classes_n: IntArray
    ) -> IntArray:
        """Compute the margins by which given classes stay among the k first; int64 (N,).

        Raises:
            NotImplementedError: The rule has none (``ranks_places``).
        """
        raise NotImplementedError(f"the rule {self.name!r} speaks of the prediction alone")

    def margins_at(self, batch: VoteBatch, patch: Patch) -> CountArray | None:
        """Compute margins by the distinct sets of views that a patch touches; (S, N).

        The sets are those of ``TouchedViews.of``. None: the rule has no margins of locations.
        """
        return None

    def settled(self, batch: VoteBatch, threat: Threat) -> BoolArray | None:
        """Tell the images whose answer no further vote can change, for early exit; bool (N,).

        None: the rule needs every vote.
        """
        return None

    def at(self, confidence: float | None) -> Self:
        """Return the rule at a confidence: itself, where it is a proof."""
        return self
