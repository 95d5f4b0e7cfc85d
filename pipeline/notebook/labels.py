"""Labels of one's own, certified: arrays in, arrays out, no model and no images.

Shapes: N images, V views.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.networks.weights import WeightsCard
from models.preprocess import Preprocess
from models.views.family import BoolArray, IntArray, ViewFamily, ViewsKind
from models.views.masks import Masks
from models.views.threats import Threat
from pipeline.certificates.batch import vote_batches
from pipeline.certificates.early_exit import EarlyExit
from pipeline.certificates.rules import default_rules, rule_for, uncovered
from pipeline.certificates.votes import VoteArray, check_votes
from pipeline.config import ConfigError, VotesConfig
from pipeline.runs.resolve import resolve_views
from pipeline.scoring.intervals import Proportion


@dataclass(frozen=True, kw_only=True)
class CertifiedLabels:
    """Answers of a rule to labels, and those that no patch can change. Made by ``certify``.

    Attributes:
        rule: Name of the rule.
        threat: What the attacker may do, in pixels.
        views: The views that the labels are of.
        prediction: The rule's answer to each image, -2 for an alert; int64 (N,).
        margin: By how much each answer holds; int64 (N,).
        truth: The right classes, -1 where unknown; int64 (N,), or None.
    """

    rule: str
    threat: Threat
    views: ViewFamily
    prediction: IntArray
    margin: IntArray
    truth: IntArray | None = None

    @property
    def certified(self) -> BoolArray:
        """Images whose answer no such patch can change, right or wrong; bool (N,).

        By a rule that alerts (one-location) a patch may turn the answer into an alert.
        """
        holds: BoolArray = self.margin >= 0
        return holds

    @property
    def clean_accuracy(self) -> float:
        """Share of the labelled images that are answered rightly; NaN without any."""
        return self._share(np.ones(len(self.prediction), bool))

    @property
    def certified_accuracy(self) -> float:
        """Share of the labelled images that are answered rightly and certified; NaN without any."""
        return self._share(self.certified)

    def _share(self, among: BoolArray) -> float:
        truth = np.full(len(self.prediction), -1) if self.truth is None else self.truth
        hits = among & (self.prediction == truth) & (truth >= 0)
        share = Proportion(int(hits.sum()), int((truth >= 0).sum())).value
        return float("nan") if share is None else share


def certify(
    labels: ArrayLike,
    views: ViewFamily | ViewsKind,
    *,
    patch: int | str,
    truth: ArrayLike | None = None,
    plain: ArrayLike | None = None,
    rule: str | None = None,
    num_classes: int | None = None,
    image: int | tuple[int, int] | None = None,
    **family: int | str,
) -> CertifiedLabels:
    """Answer images from the labels of their views, and say which answers no patch can change.

    Args:
        labels: The class of every view of every image, in the family's order, integers (N, V); -1
            for a view that hides a pair of masks and that early exit does not ask.
        views: The views: a family, or its kind (column, row, block, mask, mask-pair), with
            ``image`` and ``family``. They must be the views that were asked, in the family's order
            (``family.visible(number)`` draws one): of others the certificate is false.
        patch: What the attacker may do: 32, 2%, 16x48, area:1024 or 2of32.
        truth: The right class of each image, -1 where unknown; integers (N,).
        plain: The class of each whole image, which a decision over masks answers where it finds
            none; integers (N,). None takes the class of most views, and needs every label.
        rule: Name of the rule; None takes two-location for pairs of masks, one-location for
            single masks, exact for ablations.
        num_classes: Number of classes; None takes the largest that is named, and at least 2.
        image: Side of the image in pixels, or height and width, where ``views`` is a kind.
        family: Options of a kind, as ``patchcert run`` has them: size and stride, or covers and
            masks.

    Raises:
        ValueError: The labels are not those of such views, or the rule refuses the question.

    Example:
        >>> from pipeline.notebook import certify
        >>> labels = [[0, 0, 0, 0, 0, 0, 1, 0], [0, 1, 0, 1, 0, 1, 0, 0]]
        >>> found = certify(labels, "column", image=8, size=2, patch=1, truth=[0, 0])
        >>> found.rule, found.prediction.tolist(), found.certified.tolist()
        ('exact', [0, 0], [True, False])
        >>> found.clean_accuracy, found.certified_accuracy
        (1.0, 0.5)
    """
    if isinstance(views, str):
        views = family_of(views, image, family)
    elif not isinstance(views, ViewFamily):
        raise ConfigError(
            f"views: {type(views).__name__} is no family of views; give one, or its kind (column, "
            "row, block, mask, mask-pair)"
        )
    elif family or image is not None:
        said = [*family, *(["image"] if image is not None else [])]
        raise ConfigError(f"{', '.join(said)}: the family of views says it; leave it out")
    labels_nv, truth_n, plain_n = np.asarray(labels), _classes(truth), _classes(plain)
    for name, given in (("truth", truth_n), ("plain", plain_n)):
        if given is not None and given.shape != labels_nv.shape[:1]:
            raise ConfigError(
                f"{name} has the shape {given.shape}: give one class for each of the "
                f"{len(labels_nv)} images"
            )
    for name, given in (("truth", truth_n), ("plain", plain_n)):
        top = np.inf if num_classes is None else num_classes - 1
        if given is not None and given.size and not -1 <= given.min() <= given.max() <= top:
            raise ConfigError(
                f"{name}: classes are 0 to {top:g}, and -1 where unknown, but it holds "
                f"{given.min()} to {given.max()}"
            )
    named = [one for one in (labels_nv, truth_n, plain_n) if one is not None and one.size]
    # A class that nothing names has no vote, and is no stronger a rival than one that is named.
    num_classes = num_classes or max(2, 1 + max((int(one.max()) for one in named), default=0))
    labels_nv = check_votes(labels_nv, num_classes, len(views), partial=views.hides)
    names = [one.name for one in default_rules(views, randomized=False)]
    rule = rule or next(name for name in names if name in uncovered(names))
    threat = Threat.parse(patch).on(views)
    asked = rule_for(rule, randomized=False)
    asked.check(views, threat, num_classes)
    if labels_nv.ndim == 2 and (labels_nv < 0).any():
        asked.check_early(views, threat)
        _check_needless(labels_nv, views, plain_n)
    prediction_n, margin_n = np.empty((2, len(labels_nv)), np.int64)
    for images, batch in vote_batches(labels_nv, views, num_classes, plain_n=plain_n):
        prediction_n[images] = asked.predict(batch, threat)
        margin_n[images] = asked.margins(batch, threat)
    return CertifiedLabels(
        rule=rule,
        threat=threat,
        views=views,
        prediction=prediction_n,
        margin=margin_n,
        truth=truth_n,
    )


def _check_needless(labels_nv: VoteArray, views: ViewFamily, plain_n: IntArray | None) -> None:
    """Raise ConfigError unless early exit would ask for none of the labels that are missing."""
    if not isinstance(views, Masks) or not views.pairs or not views.covers:
        raise ConfigError(
            "labels: views without one (-1) may only be of pairs of masks that cover a patch; give "
            "every label"
        )
    images = np.flatnonzero((labels_nv < 0).any(axis=1))
    unknown = images if plain_n is None else images[plain_n[images] < 0]
    if plain_n is None or len(unknown):
        raise ConfigError(
            f"labels of image {unknown[0]}: views without one (-1), and no plain prediction, which "
            "the decision then needs; give plain=, or every label"
        )
    lacking = EarlyExit(views).lacking(labels_nv[images].astype(np.int64), plain_n[images])
    if lacking is not None:
        place, view = lacking
        raise ConfigError(
            f"labels of image {images[place]}: view {view} has none (-1), and the two-location "
            "decision needs it; give it"
        )


def _classes(given: ArrayLike | None) -> NDArray[np.int64] | None:
    if given is None:
        return None
    array = np.asarray(given)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ConfigError(f"classes of type {array.dtype}: give integers")
    return array.astype(np.int64)


def family_of(
    kind: ViewsKind, image: int | tuple[int, int] | None, family: dict[str, Any]
) -> ViewFamily:
    """The family that the options of ``patchcert run`` name.

    Raises:
        ConfigError: Something is left open: labels of other views would be taken for these.
    """
    needed = "covers" if kind.startswith("mask") else "size"
    if image is None or not {needed, "size"} & family.keys():
        raise ConfigError(
            f"views={kind!r}: give image= (its side in pixels) and {needed}= of the views that the "
            "labels are of, and stride= or masks= where it was not the default"
        )
    look = Preprocess(
        resize=None, crop=image, interpolation="nearest", mean=(0, 0, 0), std=(1, 1, 1)
    )
    try:
        request = VotesConfig(data="-", weights="-", views=kind, **as_options(family))
    except TypeError as error:
        raise ConfigError(
            f"{', '.join(family)}: a family has size, stride, covers, masks"
        ) from error
    return resolve_views(request, WeightsCard(), look)


def needs_covers(kind: str, family: dict[str, Any]) -> bool:
    """Return True for masks of which nothing says how large they are."""
    return kind.startswith("mask") and not {"covers", "size"} & family.keys()


def as_options(given: dict[str, Any]) -> dict[str, Any]:
    """Options in the types in which the command line gives them: covers and masks are texts."""
    texts = ("covers", "masks")
    return {name: str(value) if name in texts else value for name, value in given.items()}
