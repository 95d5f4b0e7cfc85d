"""Fewer ablations from the votes of more: coarser strides and other subsets of the positions."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from models.views.ablations import Ablation
from models.views.family import IntArray
from pipeline.certificates.votes import VoteArray


@dataclass(frozen=True, kw_only=True)
class Subset(Ablation):
    """Some of the ablations of a family; it has their votes, and no others, to count.

    Attributes:
        chosen: Numbers of these ablations in the family, ascending.
    """

    chosen: tuple[int, ...]

    @cached_property
    def positions(self) -> IntArray:
        """Top-left corner (y, x) of every chosen ablation, row-major, in pixels; int (V, 2)."""
        whole = Ablation(**_fields(self))
        return whole.positions[list(self.chosen)]


def subset(votes: VoteArray, ablation: Ablation, chosen: IntArray) -> tuple[VoteArray, Subset]:
    """The votes of some ablations, and those ablations as a family of their own.

    A vote depends on what its ablation shows and on nothing else, so the smoothed classifier over
    fewer ablations has these votes. They must be chosen without regard to the image.

    Args:
        votes: Votes of every ablation, (N, V) or (N, V, T).
        ablation: The family.
        chosen: Numbers of the ablations to keep; int (V',).

    Raises:
        ValueError: None is chosen, one is chosen twice, or there is no such ablation.
    """
    kept = np.unique(chosen)
    if not len(kept) or len(kept) < len(chosen) or kept[0] < 0 or kept[-1] >= len(ablation):
        raise ValueError(
            f"{len(chosen)} ablations chosen: give distinct numbers from 0 to {len(ablation) - 1}"
        )
    return votes[:, kept], Subset(**_fields(ablation), chosen=tuple(kept.tolist()))


def _fields(ablation: Ablation) -> dict[str, Any]:
    return {field.name: getattr(ablation, field.name) for field in fields(Ablation)}


def coarser(votes: VoteArray, ablation: Ablation, stride: int) -> tuple[VoteArray, Ablation]:
    """The votes and ablations of a larger stride, from those of a smaller one.

    Offsets of a stride s are 0, s, 2 s, ... below the length, so those of its multiples are among
    them: stride 1 answers every stride.

    Args:
        votes: Votes of every ablation, (N, V) or (N, V, T).
        ablation: The family, of any positions.
        stride: The stride wanted, in pixels.

    Raises:
        ValueError: The stride does not fit the image, or has an offset that did not vote.
    """
    places, wanted = coarser_places(ablation, stride)
    return votes[:, places], wanted


def coarser_places(ablation: Ablation, stride: int) -> tuple[IntArray, Ablation]:
    """The numbers, in a family, of the ablations of a larger stride, and those as a family.

    Arguments and errors: ``coarser``.
    """
    wanted = replace(ablation, stride=stride, random=None, seed=0)
    width = ablation.width
    numbers, have = (at.positions @ np.array([width, 1]) for at in (wanted, ablation))
    # Positions are listed row-major, so their numbers ascend.
    places = np.searchsorted(have, numbers)
    found = have[np.minimum(places, len(have) - 1)] == numbers
    if not found.all():
        y, x = wanted.positions[~found][0]
        remedy = "random positions answer for no stride"
        if ablation.random is None:
            remedy = f"choose a multiple of {ablation.stride}, the stride of the votes"
        raise ValueError(f"stride={stride}: its ablation at y={y}, x={x} has no vote; {remedy}")
    return places, wanted
