"""From stored votes to certificates and a summary: no GPU, no model, no images."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from pipeline import storage
from pipeline.config import ClaimsConfig
from pipeline.runs.manifest import Manifest
from pipeline.runs.proof import BOND
from pipeline.runs.schema import Summary
from pipeline.runs.store import StoreError, VotesStore
from pipeline.runs.waiting import waiting
from pipeline.scoring.claims import Claims, resolve_claims
from pipeline.scoring.datasets import (
    DATASETS,
    bond_of,
    certify_part,
    datasets_of,
    metadata_of,
    part_path,
    parts_of,
    questions_in,
)
from pipeline.scoring.summary import Totals

_Part = tuple[int, range]
Spread = Callable[[Callable[[_Part], Totals], Iterable[_Part]], Iterable[Totals]]
"""Applies a function to the parts of the images, as ``map`` does, and yields what it returns."""


@dataclass(frozen=True, kw_only=True)
class Certified:
    """Results of a certification.

    Attributes:
        manifest: The run's manifest.
        summary: The summary, as in the file.
        summary_path: Where it lies.
        folders: Where the datasets lie, by name.
        computed: False where everything asked was there already.
        asked: What was asked now; the summary answers all that ever was.
    """

    manifest: Manifest
    summary: Summary
    summary_path: str
    folders: dict[str, str]
    computed: bool
    asked: Claims


def certify_votes(
    store: VotesStore,
    claims: ClaimsConfig,
    *,
    stride: int | None = None,
    overwrite: bool = False,
    spread: Spread = map,
    threads: int | None = None,
) -> Certified:
    """Answer what is asked of every image of a run.

    What was asked before stays: the results cover every question ever asked of the run.

    Args:
        store: The run's votes.
        claims: What is asked.
        stride: Of the ablations whose votes are counted; None for the run's own.
        overwrite: Forget what was asked before.
        spread: Applies a function to every part of the images, here or elsewhere, as ``map`` does.
        threads: Batches of a part that are scored side by side; None for one a CPU.

    Raises:
        ConfigError: A question that these votes cannot answer.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    manifest = store.manifest()
    asked = resolve_claims(manifest.defense, claims, stride)
    store.units(manifest)
    proof = store.proof(manifest)
    earlier, known = (None, Claims()) if overwrite else _known(store)
    questions = asked | known
    folders = datasets_of(store, questions)

    def done(summary: Summary, *, computed: bool) -> Certified:
        return Certified(
            manifest=manifest,
            summary=summary,
            summary_path=store.summary_path,
            folders=folders,
            computed=computed,
            asked=asked,
        )

    parts = parts_of(manifest)
    files = [part_path(folder, part) for folder in folders.values() for part in range(len(parts))]
    bond = bond_of(questions, proof).items()
    if (
        earlier
        # That of an older program may lack some.
        and Summary.__required_keys__ <= earlier.keys()
        and asked <= known
        and all(bond <= metadata_of(path).items() for path in files)
    ):
        return done(earlier, computed=False)
    # Pictures are not bound to votes: what is known of them is what lies beside them.
    gone = any(metadata_of(path).get(BOND) not in (None, proof.bond[BOND]) for path in files)
    totals = Totals()
    work = partial(
        certify_part, store.anywhere(), manifest, questions, proof=proof, threads=threads
    )
    counts: Iterable[Totals] = spread(work, enumerate(parts))
    images = manifest.execution.images
    with waiting("certifying") as say:
        for counted in counts:
            totals.add(counted)
            say(f"certifying: {totals.images} of {images} images")
    store.check_count(manifest, totals.images)
    written = {storage.full_path(path) for path in files}
    for name in DATASETS:
        for path in storage.list_files(storage.join(store.out, name, f"run_id={store.run_id}")):
            if path not in written:  # of another number of parts, or a question withdrawn
                storage.remove(path)
    if store.proof(manifest) != proof:
        raise StoreError(
            f"{store.folder}: its votes changed while they were certified; certify again"
        )
    if gone:
        store.remove_pictures()
    # The summary last: it is what a later call takes as the sign that all is there.
    return done(store.write_summary(totals.summary(manifest), proof), computed=True)


def _known(store: VotesStore) -> tuple[Summary | None, Claims]:
    """The summary, where it is proven to be of the votes; and all that was ever asked of them."""
    try:
        summary = store.read_summary()
        asked = Claims.from_summary(summary) if summary is not None else Claims()
    except (StoreError, ValueError, KeyError, TypeError):
        # Derived data: computed again rather than believed. The files say what was asked.
        return None, questions_in(datasets_of(store, Claims()).values())
    return summary if summary and "sha256" in summary else None, asked
