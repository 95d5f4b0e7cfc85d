"""The interface of a rule: the votes of some images in, predictions and certificates out.

Shape suffixes: N images, S distinct sets of touched views.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple, Self

from models.views.family import IntArray, ViewFamily
from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch
from pipeline.certificates.touched import CountArray, Locations


class Terms(NamedTuple):
    """The terms of a claim beside its threat; a rule ignores those that it does not have.

    Attributes:
        confidence: Probability, for each image, that the certificate is true; None for a proof.
        assumed: The largest threat, for a decision that is built for one; None takes that of the
            claim.
        tau: Gap of the two largest logits up to which a view has no say; None lets all speak.
    """

    confidence: float | None = None
    assumed: Threat | None = None
    tau: float | None = None


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
        about_masks: True where the rule may be asked about views that hide.
        knows_patch: True where the decision is built for a largest patch, which it assumes.
        takes_tau: True where views of a small gap may be left out (``Terms.tau``).
        alerts: True where the decision may raise an alert (``ALERT``) instead of an answer.
        covers: Names of rules that predict the same and certify nothing that this one does not:
            where there is room for one, this one is shown.
        confidence: Probability, for each image, that its certificate is true; None for a proof.
    """

    name: str
    guarantee: str
    deterministic: bool = True
    default: bool = False
    monotone: bool = True
    ranks_places: bool = False
    about_masks: bool = False
    knows_patch: bool = False
    takes_tau: bool = False
    alerts: bool = False
    covers: frozenset[str] = frozenset()
    confidence: float | None = None

    @property
    def by_location(self) -> bool:
        """True where ``margins_at`` has an answer."""
        return type(self).margins_at is not Rule.margins_at

    @property
    def owns_answer(self) -> bool:
        """True where its answer need not be the class with the most votes."""
        return type(self).predict is not Rule.predict

    def check(self, views: ViewFamily, threat: Threat, num_classes: int, top_k: int = 1) -> None:
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
        if views.hides and not self.about_masks:
            fitting = [rule.name for rule in RULES.values() if rule.about_masks]
            raise ValueError(
                f"rule={self.name!r}: it counts votes of ablations and does not speak of masks, of "
                f"which a patch touches most; choose {', '.join(fitting)}"
            )
        if top_k > 1 and not self.ranks_places:
            fitting = [
                rule.name
                for rule in RULES.values()
                if rule.ranks_places and rule.deterministic == self.deterministic
            ]
            raise ValueError(
                f"top_k={top_k}: the rule {self.name!r} speaks of the prediction alone; "
                f"choose {' or '.join(fitting) or 'top_k=1'}"
            )
        threat.patches(views)

    def default_for(self, views: ViewFamily) -> bool:
        """Return True where the rule is asked about these views if a request names none."""
        return self.default and not views.hides

    def check_early(self, views: ViewFamily, threat: Threat) -> None:
        """Raise ValueError unless votes that were cast with early exit answer for a threat."""
        raise ValueError(
            f"rule={self.name!r}: it needs the vote of every view, and these votes were cast only "
            "as far as two-location needs them; vote with --all-views"
        )

    def predict(self, batch: VoteBatch, threat: Threat) -> IntArray:
        """Answer each image: here by the class with the most votes; int64 (N,).

        Args:
            batch: The votes.
            threat: What the attacker may do, for a decision that is built for it.
        """
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

    def margins_at(
        self, batch: VoteBatch, where: Locations
    ) -> tuple[CountArray, CountArray | None] | None:
        """Compute margins by the sets of views that a patch touches, of which ``margins`` is least.

        Returns:
            The margins, (S, N), and the rival of the prediction that attains each, (S, N), or None
            for a rule that knows no rivals; None where the rule has no margins of locations.
        """
        return None

    def at(self, terms: Terms) -> Self:
        """Return the rule under the terms of a claim: itself, where it has none of them."""
        return self


ALERT = -2
"""The answer of a decision that raises an alert instead."""

RULES: dict[str, Rule] = {}
"""By name, as ``rules`` registers them: here, so that a rule can name another one that fits."""
