"""Double masking, as published: the answer of PatchCleanser from the labels of mask pairs.

Shape suffixes: N images, V views, M masks.
"""

import numpy as np

from models.views.family import IntArray, ViewFamily
from models.views.masks import Masks
from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch, rank_votes
from pipeline.certificates.rule import Rule


class DoubleMasking(Rule):
    """Recovery by double masking: the published inference, to compare with.

    With l_ij the label under masks i and j, and l_ii under mask i alone, it answers: the label of
    all one-mask views where they agree; else l_ii of the first mask i that disagrees with most of
    them and has l_ij = l_ii for every j; else the label of most one-mask views (the lowest class on
    ties).

    Certified iff all V labels are one class y. Guarantee: then the answer is y, and remains y
    whatever is written into one patch that lies within a mask, wherever it lies.

    Proof: let mask m hold the patch. Every view that hides m keeps its label, so l_mj = y for all
    j, l_mm included. If the one-mask labels agree, they agree on l_mm = y. Else no mask i with
    l_ii = z other than y passes, since l_im = y. So if y is the majority, it is answered; if not,
    m disagrees with the majority and passes, and y is answered.

    The same holds for every smaller patch, and ``two-location`` certifies at least as much.

    Source: Xiang et al., "PatchCleanser", USENIX Security 2022, algorithms 1 and 2.
    """

    name = "double-masking"
    guarantee = "Every view has the same label, so that PatchCleanser's inference cannot change."
    monotone = False
    about_masks = True

    def check(self, views: ViewFamily, threat: Threat, num_classes: int, top_k: int = 1) -> None:
        """Raise ValueError unless the views hide pairs of masks that cover the threat."""
        super().check(views, threat, num_classes, top_k)
        if not isinstance(views, Masks) or not views.pairs:
            raise ValueError(
                f"rule={self.name!r}: it is about pairs of masks, not {views}; use two-location"
            )
        if threat.count > 1:
            raise ValueError(f"patch {threat}: double masking is about one patch; ask for one")
        for patch in threat.patches(views):
            views.check_covers(patch)

    def predict(self, batch: VoteBatch, threat: Threat) -> IntArray:
        """Answer each image as published; int64 (N,)."""
        views = batch.views
        assert isinstance(views, Masks)
        masks, votes_nv = len(views.masks), batch.labels_nv
        labels_nmm = np.empty((len(batch), masks, masks), np.int64)
        labels_nmm[:, views.first_v, views.second_v] = votes_nv
        labels_nmm[:, views.second_v, views.first_v] = votes_nv
        alone_nm = votes_nv[:, views.alone]
        majority_n = rank_votes(alone_nm, batch.num_classes).predictions
        passes_nm = (labels_nmm == alone_nm[:, :, None]).all(axis=2)
        passes_nm &= alone_nm != majority_n[:, None]
        first_n = passes_nm.argmax(axis=1)
        passed_n = alone_nm[np.arange(len(batch)), first_n]
        answers: IntArray = np.where(passes_nm.any(axis=1), passed_n, majority_n)
        return answers

    def margins(self, batch: VoteBatch, threat: Threat) -> IntArray:
        """Minus the labels that differ from the most frequent one; int64 (N,)."""
        margins: IntArray = batch.ranked.counts_nk[:, 0] - batch.labels_nv.shape[1]
        return margins
