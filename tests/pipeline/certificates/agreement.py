"""The rules as they are installed, held against brute force."""

import numpy as np
from bruteforce import Geometry, any_views, can_change, touched_sets

from models.ablation import Ablation, Patch
from pipeline.certificates import exact_margins, uniform_margins


def check(g: Geometry, votes: np.ndarray, num_classes: int) -> tuple[int, int]:
    """Compare both rules with brute force; the images that ``exact`` and ``uniform`` certify."""
    sets = touched_sets(g)
    delta = max(map(len, sets))
    arguments = (votes, Ablation(**g.ablation), Patch(g.patch_height, g.patch_width), num_classes)
    exact, uniform = exact_margins(*arguments), uniform_margins(*arguments)

    changeable = can_change(votes, sets, num_classes)
    np.testing.assert_array_equal(exact >= 0, ~changeable, err_msg=f"exact, {g}")
    if delta <= 4 or votes.shape[1] <= 6:
        changeable = can_change(votes, any_views(votes.shape[1], delta), num_classes)
        np.testing.assert_array_equal(uniform >= 0, ~changeable, err_msg=f"uniform, {g}")
    assert (exact >= uniform).all(), f"exact loses to uniform, {g}"
    return int((exact >= 0).sum()), int((uniform >= 0).sum())
