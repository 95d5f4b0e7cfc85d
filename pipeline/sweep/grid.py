"""Which points of a sweep need votes of their own, and whose votes answer the others.

A vote depends on what its ablation shows and on nothing else, so a run at a stride has the votes of
every multiple of it, and of the same votes come the same certificates
(``pipeline.certificates.coarser``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.claims import own_stride
from pipeline.config import VotesConfig
from pipeline.manifest import Manifest, canonical
from pipeline.resolve import Voter
from pipeline.store import VotesStore, run_ids


@dataclass(frozen=True, kw_only=True)
class Point:
    """One combination of a sweep.

    Attributes:
        config: What was asked.
        voter: ``config`` with everything filled in.
        wanted: The manifest that a run of its own would be begun with.
    """

    config: VotesConfig
    voter: Voter
    wanted: Manifest

    @property
    def stride(self) -> int | None:
        """Its stride; None for random positions."""
        return own_stride(self.wanted)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Where the answer to a point comes from.

    Attributes:
        point: The point.
        run_id: Whose votes they are.
        stride: Of the ablations of that run whose votes count; None for all of them.
        there: Whether all of these votes are there already.
    """

    point: Point
    run_id: str
    stride: int | None
    there: bool


def answers(points: Sequence[Point], out: str) -> list[Answer]:
    """For each point a run of its own, or one of a finer stride that is there or asked for.

    Raises:
        ManifestError: A run under ``out`` contradicts its id.
    """
    there = {} if any(point.config.overwrite for point in points) else _finished(out)
    asked = {point.wanted.run_id: point.wanted for point in points}
    found = []
    for point in points:
        own, voted = point.wanted.run_id, True
        finer = None
        if own not in there:
            # Of those that are there the coarsest has fewest votes to read; of those asked for
            # the finest is no other's multiple, so that it votes itself.
            finer = max(_finer(point, there), default=None)
            if finer is None:
                finer, voted = min(_finer(point, asked), default=None), False
        found.append(
            Answer(
                point=point,
                run_id=own if finer is None else finer[1],
                stride=None if finer is None else point.stride,
                there=voted,
            )
        )
    return found


def _finer(point: Point, runs: Mapping[str, Manifest]) -> Iterable[tuple[int, str]]:
    """Stride and id of the runs that differ from a point in a finer stride only."""
    stride, like = point.stride, _but_stride(point.wanted.identity)
    for run_id, manifest in runs.items():
        theirs = own_stride(manifest)
        if (
            stride is not None
            and theirs is not None
            and theirs < stride
            and stride % theirs == 0
            and _but_stride(manifest.identity) == like
        ):
            yield theirs, run_id


def _but_stride(identity: Mapping[str, Any]) -> bytes:
    return canonical({**identity, "ablation": {**identity["ablation"], "stride": 0}})


def _finished(out: str) -> dict[str, Manifest]:
    """The finished runs under ``out``."""
    found = {run_id: VotesStore(out, run_id).finished() for run_id in run_ids(out)}
    return {run_id: manifest for run_id, manifest in found.items() if manifest is not None}
