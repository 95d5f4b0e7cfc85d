"""One patch to make: where, on which image, and what for.

Shapes: V ablations, C classes.
"""

from dataclasses import dataclass

from models.ablation import BoolArray, IntArray


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One patch to make.

    Attributes:
        image: Number of the image among those attacked.
        y: Upper edge, in pixels of the attacker's grid.
        x: Left edge.
        rival: The class to push ablations to.
        seen_v: Ablations that see the patch; bool (V,).
        prediction: Smoothed prediction without the patch.
        kept_c: Votes for each class of the ablations that do not see it; -1 for classes that
            cannot be voted for; int (C,).
        seed: Of the first pixels, and of the ablations asked in a step.
    """

    image: int
    y: int
    x: int
    rival: int
    seen_v: BoolArray
    prediction: int
    kept_c: IntArray
    seed: tuple[int, ...]
