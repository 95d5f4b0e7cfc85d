"""Which ablations show a pixel of a patch, by the masks that the model sees through.

The rules ask ``Ablation.touched`` instead, whose arithmetic on arcs must agree. An attack that
asked it too could not find that arithmetic wrong.
"""

import numpy as np

from models.ablation import Ablation, BoolArray, Patch


def sees_patch(ablation: Ablation, patch: Patch, y: int, x: int) -> BoolArray:
    """Whether each ablation shows a pixel of the patch whose upper left corner is (y, x); (V,).

    Raises:
        ValueError: The patch is not wholly inside the image.
    """
    if not (0 <= y <= ablation.height - patch.height and 0 <= x <= ablation.width - patch.width):
        raise ValueError(
            f"patch {patch} at y = {y}, x = {x} leaves the {ablation.height}x{ablation.width} px "
            "image"
        )
    rows = ablation.visible_rows[:, y : y + patch.height].any(axis=1)
    columns = ablation.visible_columns[:, x : x + patch.width].any(axis=1)
    return np.asarray(rows & columns)
