"""Early exit: the order in which the views of an image are asked, and the moment to stop.

Shapes: N images, V views, S largest sets of touched views.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.views.family import BoolArray, IntArray
from models.views.masks import Masks
from pipeline.certificates.largest_sets import largest_sets

# Views asked of an image before its labels are looked at again.
_AT_ONCE = 8


class EarlyExit:
    """Asks an image's views only as far as the decision for the covered patch needs them.

    Guarantee: on the labels that it asks for, ``two_location`` for the covered patch gives the
    same answer and certifies the same images as on all labels, and ``one_location`` sees all that
    it looks at.

    Proof. Write U_s for the views outside the largest touched set s. A view v is critical to s if
    U_s and U_t = {v} for some t: its label alone is phi there. So s is a witness only if all views
    critical to s have one label, and the image is certified only if all critical views have one.

    - The views that hide one mask are always asked: ``one_location`` looks at these.
    - While no two critical views differ, more views are asked, in the end all of them: then there
      is nothing to prove. Once two differ, the image is not certified, whatever the others say; and
      ``two_location`` does not certify it either, because a set with a view outside it that was not
      asked counts as no witness.
    - After that, views are asked until a set is known to be a witness, or each set is known to be
      none, or has a critical label that is the plain prediction. In the first case the answer is
      its class, and any other witness has the same. Else a set that may yet be a witness could only
      be one for the plain prediction, which the fallback answers anyway.

    Args:
        views: Pairs of masks.
    """

    def __init__(self, views: Masks) -> None:
        self.views = views
        self.untouched_sv = ~largest_sets(views, views.covers)

    @cached_property
    def critical_sv(self) -> BoolArray:
        """The views critical to each set; bool (S, V)."""
        critical_sv = np.zeros_like(self.untouched_sv)
        for number in range(len(critical_sv)):
            shared_tv = self.untouched_sv & self.untouched_sv[number]
            critical_sv[number] = shared_tv[shared_tv.sum(axis=1) == 1].any(axis=0)
        return critical_sv

    def next(self, labels_v: IntArray, gaps_v: NDArray[np.floating], plain: int) -> IntArray | None:
        """The views of one image to ask now; None once nothing more is needed.

        Args:
            labels_v: Label of each view, -1 where it was not asked; int (V,).
            gaps_v: Gap of its two largest logits, where it was asked; (V,).
            plain: Prediction of the whole image.
        """
        unknown_v = labels_v < 0
        if unknown_v[self.views.alone].any():
            return self.views.alone
        if not unknown_v.any():
            return None
        if _one_label(labels_v[self.critical_sv.any(axis=0) & ~unknown_v]):
            return self._least_sure(labels_v, gaps_v)[:_AT_ONCE]
        return self._towards_witness(labels_v, plain)

    def lacking(self, labels_nv: IntArray, plain_n: IntArray) -> tuple[int, int] | None:
        """The first image of which the decision needs more labels, and a view that it needs.

        Args:
            labels_nv: Labels of images, -1 where a view was not asked; int (N, V).
            plain_n: Predictions of the whole images; int (N,).
        """
        no_gaps_v = np.zeros(len(self.views))
        for image, (labels_v, plain) in enumerate(zip(labels_nv, plain_n.tolist(), strict=True)):
            needed_v = self.next(labels_v, no_gaps_v, plain)
            if needed_v is not None:
                return image, int(needed_v[labels_v[needed_v] < 0][0])
        return None

    def _least_sure(self, labels_v: IntArray, gaps_v: NDArray[np.floating]) -> IntArray:
        """Views that were not asked, those outside the sets of the least sure masks first."""
        alone = self.views.alone
        classes, counts = np.unique(labels_v[alone], return_counts=True)
        agrees = labels_v[alone] == classes[counts.argmax()]
        sure_v = np.full(len(labels_v), np.inf)
        sure_v[alone] = np.where(agrees, 1.0, -1.0) * gaps_v[alone]
        sureness_s = np.where(self.untouched_sv, sure_v, np.inf).min(axis=1)
        ranked_sv = self.untouched_sv[np.argsort(sureness_s, kind="stable")] & (labels_v < 0)
        first_v = np.where(ranked_sv.any(axis=0), ranked_sv.argmax(axis=0), len(ranked_sv))
        unknown = np.flatnonzero(labels_v < 0)
        return unknown[np.argsort(first_v[unknown], kind="stable")]

    def _towards_witness(self, labels_v: IntArray, plain: int) -> IntArray | None:
        """Views that may show a set to be a witness for another class than the plain prediction."""
        unknown_v = labels_v < 0
        best: tuple[int, IntArray] | None = None
        for number in range(len(self.untouched_sv)):
            untouched_v, critical_v = self.untouched_sv[number], self.critical_sv[number]
            seen = labels_v[critical_v & ~unknown_v]
            if not _one_label(seen) or (len(seen) and seen[0] == plain):
                continue
            asked = int((untouched_v & ~unknown_v).sum())
            if asked == untouched_v.sum():
                if self._is_witness(untouched_v, labels_v):
                    return None
            elif best is None or asked > best[0]:
                # A critical view may settle the set by itself.
                open_v = untouched_v & unknown_v
                critical = np.flatnonzero(open_v & critical_v)
                best = asked, critical if len(critical) else np.flatnonzero(open_v)
        return None if best is None else best[1][:_AT_ONCE]

    def _is_witness(self, untouched_v: BoolArray, labels_v: IntArray) -> bool:
        """Tell whether a set whose outside was asked names one class with every other set."""
        shared = (labels_v[views_v] for views_v in self.untouched_sv & untouched_v)
        return len({int(np.bincount(labels).argmax()) for labels in shared}) == 1


def _one_label(labels: IntArray) -> bool:
    return not len(labels) or bool((labels == labels[0]).all())
