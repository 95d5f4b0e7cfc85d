"""In which order ablations vote where an image's vote may end early, and when one looks.

Pure numpy. Shape suffix: V ablations.
"""

import numpy as np
from numpy.typing import NDArray

from models.ablation import Ablation

# Times that an image is asked whether its votes suffice, at most, about.
_LOOKS = 16


def spread(ablation: Ablation) -> NDArray[np.int64]:
    """Every ablation once, any first few of them far apart; int (V,).

    Along an axis in van der Corput's order (0, 1/2, 1/4, 3/4, 1/8, ... of it: numbers by their
    reversed bits), over a grid with the bits of both axes by turns.
    """
    rows, columns = ablation.grid.shape
    row_v, column_v = np.divmod(ablation.grid.cells_v, columns)
    key_v = np.zeros(len(ablation), np.int64)
    # The most significant bit of a number is the least of its key: halves come first.
    for axis_v, length, turn in ((column_v, columns, 0), (row_v, rows, 1)):
        own = (length - 1).bit_length()
        for bit in range(own):
            key_v |= (axis_v >> bit & 1) << (2 * (own - 1 - bit) + turn)
    return np.argsort(key_v, kind="stable")


def looks(views: int) -> NDArray[np.int64]:
    """Numbers of votes after which an image is looked at, ascending, the last of them all.

    With fewer than half of the votes no prediction is certain.
    """
    first, step = -(-views // 2), max(1, views // 2 // _LOOKS)
    return np.append(np.arange(first, views, step), views)
