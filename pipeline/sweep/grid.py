"""Find the runs whose votes answer each combination of a sweep.

A vote depends on what its ablation shows and on nothing else, so a run at a stride has the votes of
every multiple of it, and of the same votes come the same certificates
(``pipeline.certificates.subsets``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import VotesConfig
from pipeline.runs.defense import Defense
from pipeline.runs.manifest import Manifest
from pipeline.runs.store import VotesStore, run_ids
from pipeline.tracking import run_name


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One combination of settings.

    Attributes:
        config: The request.
        defense: ``config`` with every default filled in.
        wanted: Manifest that a run of this combination would start with.
    """

    config: VotesConfig
    defense: Defense
    wanted: Manifest

    @property
    def stride(self) -> int | None:
        """Stride of its ablations; None for random positions."""
        return self.wanted.defense.own_stride


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Origin of the votes that answer a combination.

    Attributes:
        combination: The combination.
        run_id: Run whose votes they are.
        stride: Stride of the ablations of that run whose votes count; None for all of them.
        there: True if all of these votes exist already.
    """

    combination: Combination
    run_id: str
    stride: int | None
    there: bool


def origins(combinations: Sequence[Combination], out: str) -> list[Origin]:
    """Choose for each combination a run of its own, or one of a finer stride, stored or asked for.

    Raises:
        ManifestError: A run under ``out`` contradicts its id.
    """
    stored = {} if any(one.config.overwrite for one in combinations) else _finished(out)
    requested = {one.wanted.run_id: one.wanted for one in combinations}
    found = []
    for combination in combinations:
        own, there = combination.wanted.run_id, True
        finer = None
        if own not in stored:
            # Of the stored runs the coarsest has fewest votes to read; of those asked for the
            # finest is a multiple of no other, so it votes itself.
            finer = max(_finer(combination, stored), default=None)
            if finer is None:
                finer, there = min(_finer(combination, requested), default=None), False
        found.append(
            Origin(
                combination=combination,
                run_id=own if finer is None else finer[1],
                stride=None if finer is None else combination.stride,
                there=there,
            )
        )
    return found


def _finer(combination: Combination, runs: Mapping[str, Manifest]) -> Iterable[tuple[int, str]]:
    """Yield stride and id of the runs that differ from a combination only by a finer stride."""
    stride, same = combination.stride, combination.wanted.identity_but_stride()
    for run_id, manifest in runs.items():
        other = manifest.defense.own_stride
        if (
            stride is not None
            and other is not None
            and other < stride
            and stride % other == 0
            and manifest.identity_but_stride() == same
        ):
            yield other, run_id


def _finished(out: str) -> dict[str, Manifest]:
    """Return the finished runs under ``out``."""
    found = {run_id: VotesStore(out, run_id).finished() for run_id in run_ids(out)}
    return {run_id: manifest for run_id, manifest in found.items() if manifest is not None}


def forecast(found: Sequence[Origin], out: str) -> list[dict[str, Any]]:
    """Count for each combination the sequences still to compute; nothing is computed.

    Raises:
        ManifestError: A stored run contradicts its id.
    """
    plan = []
    for origin in found:
        wanted, own = origin.combination.wanted, origin.stride is None
        images = wanted.execution.images
        done = images
        if own and not origin.there:
            overwrite = origin.combination.config.overwrite
            done = 0 if overwrite else VotesStore(out, origin.run_id).images_done()
        plan.append(
            {
                "point": run_name(wanted),
                "run_id": origin.run_id,
                "own_votes": own,
                "images": images,
                "images_there": done if own else None,
                # The whole image is classified too.
                "sequences": (images - done) * (wanted.defense.votes_per_image + 1),
            }
        )
    return plan


def forecast_lines(plan: Sequence[dict[str, Any]]) -> list[str]:
    """Write a forecast as text, one line a combination."""
    lines = []
    for one in plan:
        if not one["own_votes"]:
            what = f"no pass of its own: answered by the votes of {one['run_id']}"
        elif one["sequences"]:
            what = (
                f"{one['sequences']:,} sequences to compute, {one['images_there']:,} of "
                f"{one['images']:,} images are there"
            )
        else:
            what = f"all {one['images']:,} images are there"
        lines.append(f"{one['point']}: {what}")
    total = sum(one["sequences"] for one in plan)
    return [*lines, f"{len(plan)} points, {total:,} sequences in all; nothing was computed"]
