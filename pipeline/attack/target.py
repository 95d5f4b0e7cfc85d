"""The answer that is attacked, and its certificate: of the rule that the run's views have.

Of ablations it is the class of most votes with the exact rule. Of views that hide it is the first
decision that they have by default, built for the attacker's patch: two-location, whose answer may
not change, or one-location, which may not give another answer without an alert.

Shapes: N images with votes, V views, T slots of a vote set, Ly x Lx locations.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.views.family import BoolArray, IntArray, Patch
from models.views.threats import Threat
from pipeline.certificates import rules
from pipeline.certificates.batch import VoteBatch, vote_batches
from pipeline.certificates.locations import location_margins
from pipeline.certificates.rule import ALERT, Rule
from pipeline.certificates.two_location import margins_of_sets
from pipeline.certificates.votes import VoteArray, renumbered
from pipeline.config import ConfigError
from pipeline.runs.defense import Defense


@dataclass(frozen=True, kw_only=True)
class Target:
    """A defense's answer under attack by one patch.

    Attributes:
        defense: The defense.
        patch: The patch, which a decision is built for.
        rule: The rule that answers and certifies.
    """

    defense: Defense
    patch: Patch
    rule: Rule

    @classmethod
    def of(cls, defense: Defense, patch: Patch) -> "Target":
        """The target of a defense.

        Raises:
            ConfigError: The patch does not fit the image, or the votes cannot answer for it.
        """
        views, threat = defense.views, Threat(patch)
        rule = rules.rule_of_locations()
        if views.hides:
            rule = rules.default_rules(views, randomized=False)[0]
        try:
            rule.check(views, threat, len(defense.network.voted_classes))
            if defense.voting.early_exit:
                rule.check_early(views, threat)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return cls(defense=defense, patch=patch, rule=rule)

    @property
    def counts_votes(self) -> bool:
        """True where the answer is the class of most votes, over all views."""
        return not self.defense.views.hides

    def answers(self, votes: VoteArray, plain_n: IntArray, counted_n: IntArray) -> IntArray:
        """The answer to each image, in the model's class numbers, or ``ALERT``; int (N,).

        Args:
            votes: Votes in the model's class numbers, -1 where a view was not asked.
            plain_n: Predictions of the whole images, -1 where unknown.
            counted_n: Classes of most votes, which ablations answer.
        """
        if self.counts_votes:
            return counted_n
        found_n = np.empty(len(votes), np.int64)
        for images, batch in self._batches(votes, plain_n):
            answers_n = self.rule.predict(batch, Threat(self.patch))
            classes = self.defense.network.voted_classes
            found_n[images] = np.where(answers_n == ALERT, ALERT, classes[answers_n])
        return found_n

    def margins(self, votes: VoteArray, plain_n: IntArray) -> IntArray:
        """The margin of each image, certified iff >= 0; arguments as ``answers``."""
        if self.counts_votes:
            places, classes = self._places(votes), len(self.defense.network.voted_classes)
            name, views = self.rule.name, self.defense.views
            return rules.margins(name, places, views, self.patch, classes)
        margins_n = np.empty(len(votes), np.int64)
        for images, batch in self._batches(votes, plain_n):
            margins_n[images] = self.rule.margins(batch, Threat(self.patch))
        return margins_n

    def margins_at(self, votes: VoteArray, plain_n: IntArray) -> Iterator[IntArray]:
        """The margin of each image at every location; arguments as ``answers``; (Ly, Lx) each.

        Of one-location, where no place is worse than another, zeros.
        """
        views, patch = self.defense.views, self.patch
        if self.counts_votes:
            classes = len(self.defense.network.voted_classes)
            for _, found in location_margins(
                self._places(votes), self.defense.ablation, patch, classes
            ):
                yield from found.margins_nyx
            return
        touched = views.touched_sets(patch)
        for margins_s in self.margins_of(votes, plain_n, touched.touched_sv):
            yield margins_s[touched.sets_yx]

    def margins_of(
        self, votes: VoteArray, plain_n: IntArray, touched_sv: BoolArray
    ) -> Iterator[IntArray]:
        """The margin that a decision leaves each image where sets of views are touched; (S,) each.

        Args:
            votes: As ``answers``.
            plain_n: As ``answers``.
            touched_sv: The sets; bool (S, V).
        """
        for _, batch in self._batches(votes, plain_n):
            if self.rule.alerts:
                yield from np.zeros((len(batch), len(touched_sv)), np.int64)
            else:
                yield from margins_of_sets(batch, Threat(self.patch), touched_sv).T

    @staticmethod
    def changed(before: IntArray, after: IntArray) -> BoolArray:
        """Tell where another class is answered, without an alert."""
        return np.asarray((before != after) & (after != ALERT))

    def _places(self, votes: VoteArray) -> VoteArray:
        return renumbered(votes, self.defense.network.classes)

    def _batches(self, votes: VoteArray, plain_n: IntArray) -> Iterator[tuple[slice, VoteBatch]]:
        plain_n = renumbered(plain_n, self.defense.network.classes)
        classes = len(self.defense.network.voted_classes)
        return vote_batches(self._places(votes), self.defense.views, classes, plain_n=plain_n)
