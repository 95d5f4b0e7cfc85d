"""From logits to votes: the winner, every class above a threshold, and how near a tie was.

Shapes: S sequences, C classes, T slots of a vote set.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class ThresholdVoting:
    """Every class whose softmax is at least theta gets a vote (Levine & Feizi 2020).

    Attributes:
        theta: The threshold, strictly between 0 and 1.

    Raises:
        ValueError: theta lies outside (0, 1).
    """

    theta: float

    def __post_init__(self) -> None:
        if not 0.0 < self.theta < 1.0:
            raise ValueError(
                f"theta={self.theta}: a softmax lies between 0 and 1, so must the threshold; "
                "the published value is 0.2"
            )

    @property
    def slots(self) -> int:
        """T: the most classes that can reach theta at once, floor(1 / theta)."""
        return int(1.0 / self.theta)

    def __call__(self, logits_sc: Tensor) -> NDArray[np.int32]:
        """Vote sets, ascending classes followed by -1; int32 (S, T).

        The softmax is in float32 and compared in float64, where theta is not rounded. Where
        rounding lets more than T classes reach theta, the T most probable get the votes (the
        lowest classes where those tie), for certificates count on T.
        """
        probability = torch.softmax(logits_sc.float().cpu(), dim=1).numpy().astype(np.float64)
        classes = probability.shape[1]
        ranked = np.argsort(-probability, axis=1, kind="stable")[:, : self.slots]
        above = np.take_along_axis(probability, ranked, axis=1) >= self.theta
        # One past the last class sorts behind every class.
        sets = np.full((len(probability), self.slots), classes, dtype=np.int32)
        sets[:, : ranked.shape[1]] = np.where(above, ranked, classes)
        sets.sort(axis=1)
        sets[sets == classes] = -1
        return sets


def winners(logits_sc: Tensor) -> NDArray[np.int64]:
    """Winning class per sequence; the lowest where logits tie, as ``numpy.argmax``; int (S,).

    torch leaves the winner of a tie open, and bfloat16 logits tie often.
    """
    classes: NDArray[np.int64] = logits_sc.float().cpu().numpy().argmax(axis=1)
    return classes.astype(np.int64)


def top_gaps(logits_sc: Tensor) -> NDArray[np.float16]:
    """Distance of the largest logit from the second largest, >= 0; float16 (S,).

    Rounded towards zero, so that a stored gap never exceeds the true one.
    """
    logits = logits_sc.float().cpu().numpy()
    top = np.partition(logits, -2, axis=1)[:, -2:]
    # Of logits that are not finite there is no gap; whoever calls leaves them out.
    with np.errstate(invalid="ignore", over="ignore"):
        exact = top[:, 1] - top[:, 0]
        gaps: NDArray[np.float16] = exact.astype(np.float16)
    above = gaps.astype(np.float32) > exact
    gaps[above] = np.nextafter(gaps[above], np.float16(0))
    return gaps
