"""Detection with views that speak only above a gap, against every rewriting of labels and gaps."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from models.views.ablations import Ablation
from models.views.family import Patch, ViewFamily
from models.views.masks import Masks, Placement
from models.views.threats import Threat
from pipeline.certificates import VoteBatch
from pipeline.certificates.one_location import one_location
from pipeline.certificates.rule import ALERT

CLASSES, TAU = 2, 1.0
LOUD, SILENT = 2.0, TAU  # a gap of just tau does not speak


def masks(*, pairs: bool) -> Masks:
    rows, columns = Placement.at_stride(1, 1, 1), Placement.covering(4, 2, 3)
    return Masks.placed(
        height=1, width=4, placements=[(rows, columns)], pairs=pairs, covers=(Patch(1, 2),)
    )


FAMILIES: list[ViewFamily] = [
    masks(pairs=False),
    masks(pairs=True),
    Ablation(kind="column", size=1, stride=1, height=2, width=4),
]


def answers(family: ViewFamily, labels_nv: NDArray, loud_nv: NDArray) -> tuple[NDArray, NDArray]:
    """Answers, and whether they are certified."""
    gaps_nv = np.where(loud_nv, LOUD, SILENT)
    batch = VoteBatch(labels_nv, family, CLASSES, gaps_nv=gaps_nv)
    found = one_location(batch, Threat(Patch(1, 2)), TAU)
    return found.answers_n, found.margins_n >= 0


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_no_rewriting_gets_another_answer_without_an_alert(family):
    asked = family.alone if isinstance(family, Masks) else np.arange(len(family))
    # A view is label and loudness at once: classes 0 and 1, each loud or silent.
    every = np.array(list(product(range(2 * CLASSES), repeat=len(asked))))
    cells = np.zeros((len(every), len(family)), np.int64)
    cells[:, asked] = every
    answers_n, certified_n = answers(family, cells % CLASSES, cells < CLASSES)
    assert (answers_n[certified_n] != ALERT).all()
    assert certified_n.any()
    assert not certified_n.all()

    codes = every @ (2 * CLASSES) ** np.arange(len(asked))
    answer_of = np.empty(len(codes), np.int64)
    answer_of[codes] = answers_n
    for touched_v in np.unique(family.touched(Patch(1, 2)), axis=0):
        here = np.flatnonzero(touched_v[asked])
        place = (2 * CLASSES) ** here
        untouched = codes - every[:, here] @ place
        for values in product(range(2 * CLASSES), repeat=len(here)):
            attacked = answer_of[untouched + int(np.dot(values, place))]
            silent = (attacked == answers_n) | (attacked == ALERT)
            assert silent[certified_n].all()


def test_a_gap_of_tau_itself_has_no_say():
    family = FAMILIES[0]
    labels = np.array([[0] * len(family)])
    assert answers(family, labels, labels == 0)[0].tolist() == [0]
    assert answers(family, labels, labels != 0)[0].tolist() == [ALERT]


def test_more_is_answered_and_less_is_certified_than_with_every_view():
    family, rng = masks(pairs=False), np.random.default_rng(0)
    labels, loud = rng.integers(0, 2, (400, len(family))), rng.random((400, len(family))) < 0.5
    answers_n, certified_n = answers(family, labels, loud)
    every_n = one_location(VoteBatch(labels, family, CLASSES), Threat(Patch(1, 2))).answers_n
    assert (answers_n != ALERT).sum() > (every_n != ALERT).sum() > certified_n.sum() > 0
