"""The answer that is attacked, and its certificate: of the rule that the run's views have.

Of ablations it is the class of most votes with the exact rule. Of views that hide it is the first
decision that they have by default, built for the attacker's patch: two-location, whose answer may
not change, or one-location, which may not give another answer without an alert.

Shapes: N images with votes, V views, T slots of a vote set, Ly x Lx locations.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

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
from pipeline.scoring.source import certifiable, on_grids, stand_in

UNDECIDED = np.iinfo(np.int32).min
"""Stands for the margin of an image for whose rectangle the rule has no decision."""

ERROR = -3
"""Stands for the answer to an image that got an error in place of votes; ``ALERT`` is another."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A defense's answer under attack by one patch.

    Attributes:
        defense: The defense.
        patch: The patch; of one on the source, the rectangle of the grid that holds all it can
            change.
        threat: What a decision is built for.
        rule: The rule that answers and certifies.
        decides: False where the rule has no decision for so large a patch, and certifies nothing.
    """

    defense: Defense
    patch: Patch
    threat: Threat
    rule: Rule
    decides: bool = True

    @classmethod
    def of(cls, defense: Defense, patch: Patch) -> "Target":
        """The target of a defense, under a patch on the grid.

        Raises:
            ConfigError: The patch does not fit the image, or the votes cannot answer for it.
        """
        views, threat, rule = defense.views, Threat(patch), _rule(defense)
        try:
            rule.check(views, threat, len(defense.network.voted_classes))
            if defense.voting.early_exit:
                rule.check_early(views, threat)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return cls(defense=defense, patch=patch, threat=threat, rule=rule)

    @classmethod
    def through_resize(cls, defense: Defense, on_grid: Patch) -> "Target":
        """The target of a defense on pictures where a patch on the source is such a rectangle.

        As in a certificate, the rule may have no decision for one so large.
        """
        views, rule, classes = defense.views, _rule(defense), len(defense.network.voted_classes)
        early, wanted = defense.voting.early_exit, Threat(on_grid)
        threat = certifiable(rule, views, wanted, classes, 1, early=early)
        return cls(
            defense=defense,
            patch=on_grid,
            threat=threat or stand_in(views, None),
            rule=rule,
            decides=threat is not None,
        )

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
            answers_n = self.rule.predict(batch, self.threat)
            classes = self.defense.network.voted_classes
            found_n[images] = np.where(answers_n == ALERT, ALERT, classes[answers_n])
        return found_n

    def margins(self, votes: VoteArray, plain_n: IntArray) -> IntArray:
        """The margin of each image, certified iff >= 0; arguments as ``answers``."""
        if not self.decides:
            return np.full(len(votes), UNDECIDED, np.int64)
        if self.counts_votes:
            places, classes = self._places(votes), len(self.defense.network.voted_classes)
            name, views = self.rule.name, self.defense.views
            return rules.margins(name, places, views, self.patch, classes)
        margins_n = np.empty(len(votes), np.int64)
        for images, batch in self._batches(votes, plain_n):
            margins_n[images] = self.rule.margins(batch, self.threat)
        return margins_n

    def margins_at(self, votes: VoteArray, plain_n: IntArray) -> Iterator[IntArray]:
        """The margin of each image at every location; arguments as ``answers``; (Ly, Lx) each.

        Where no place is known to be worse than another, as of one-location, zeros.
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
            if self.rule.alerts or not self.decides:
                yield from np.zeros((len(batch), len(touched_sv)), np.int64)
            else:
                yield from margins_of_sets(batch, self.threat, touched_sv).T

    @staticmethod
    def changed(before: IntArray, after: IntArray) -> BoolArray:
        """Tell where another class is answered, or none for an error, without an alert."""
        return np.asarray((before != after) & (after != ALERT))

    def _places(self, votes: VoteArray) -> VoteArray:
        return renumbered(votes, self.defense.network.classes)

    def _batches(self, votes: VoteArray, plain_n: IntArray) -> Iterator[tuple[slice, VoteBatch]]:
        plain_n = renumbered(plain_n, self.defense.network.classes)
        classes = len(self.defense.network.voted_classes)
        return vote_batches(self._places(votes), self.defense.views, classes, plain_n=plain_n)


class Asked(NamedTuple):
    """A target, and the images that it is asked about.

    Attributes:
        target: The target.
        images: Their numbers; int64.
    """

    target: Target
    images: IntArray


def targets_of(defense: Defense, threat: Threat, voted: pa.Table) -> list[Asked]:
    """The targets of images: one, but of a patch on the source one for each rectangle it comes to.

    Args:
        defense: The defense that voted.
        threat: One rectangle, in pixels of the grid or on the source.
        voted: Rows of the votes dataset, without an error.

    Raises:
        ConfigError: The patch does not fit the image, or the votes cannot answer for it.
        StoreError: The sizes of the pictures were not kept.
    """
    if threat.source:
        return [
            Asked(Target.through_resize(defense, patch), images)
            for patch, images in on_grids(voted, threat, defense)
        ]
    (patch,) = threat.patches(defense.views)
    return [Asked(Target.of(defense, patch), np.arange(voted.num_rows))]


def _rule(defense: Defense) -> Rule:
    """The rule that answers: of ablations the exact one, of views that hide the default one."""
    if defense.views.hides:
        return rules.default_rules(defense.views, randomized=False)[0]
    return rules.rule_of_locations()
