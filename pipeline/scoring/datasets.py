"""The derived datasets, a file of each for some 65,000 images: judged, written and counted.

Layout: ``<out>/<dataset>/run_id=<id>/part-00000.parquet``, ... Which images a part holds depends on
the run alone, so that answering more questions replaces file by file, and a reader in the middle
meets each image once.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.runs.cpus import usable_cpus
from pipeline.runs.manifest import Manifest
from pipeline.runs.proof import Proof
from pipeline.runs.reading import vote_columns
from pipeline.runs.schema import CERTIFICATES, DETECTION, IMAGES
from pipeline.runs.store import VotesStore
from pipeline.scoring.claims import Claims
from pipeline.scoring.score import Scored, score_votes
from pipeline.scoring.source import SIZE_COLUMNS
from pipeline.scoring.summary import Totals
from pipeline.storage.tables import parquet_writer

DATASETS = {"certificates": CERTIFICATES, "images": IMAGES, "detection": DETECTION}
"""Datasets derived from votes, a folder each under ``<out>``."""

# Metadata of every file of these: two certifications at once must not leave the summary of one
# beside the rows of the other for good.
_QUESTIONS = b"patchcert.questions"
# Images whose rows become one file, held in memory compressed, and images judged at once.
_PART_IMAGES, _BATCH_IMAGES = 1 << 16, 1 << 13


def datasets_of(store: VotesStore, questions: Claims) -> dict[str, str]:
    """The datasets that hold the answers, with their folders."""
    return {
        name: storage.join(store.out, name, f"run_id={store.run_id}")
        for name in DATASETS
        if name != "detection" or questions.alerts
    }


def part_path(folder: str, number: int) -> str:
    """Path of a part of a dataset."""
    return storage.join(folder, f"part-{number:05d}.parquet")


def parts_of(manifest: Manifest) -> list[range]:
    """The units of each part; of a run always the same."""
    units, step = manifest.execution.units, max(1, _PART_IMAGES // _unit_images(manifest))
    return [range(start, min(start + step, units)) for start in range(0, units, step)]


def certify_part(
    store: VotesStore,
    manifest: Manifest,
    questions: Claims,
    part: tuple[int, range],
    *,
    proof: Proof,
    threads: int | None = None,
) -> Totals:
    """Answer the questions about some units, write one file a dataset, and count.

    Memory holds a few batches and the files, compressed, whatever the images of the run.

    Args:
        store: The run's votes.
        manifest: The run.
        questions: What is asked.
        part: Number of the part, and its units.
        proof: What is proven of the votes; the files are bound to them.
        threads: Batches judged side by side; None for one a CPU.

    Raises:
        StoreError: A stored prediction is not that of its votes.
    """
    (number, units), totals = part, Totals()
    folders = datasets_of(store, questions)
    metadata = bond_of(questions, proof)
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                parquet_writer(part_path(folder, number), DATASETS[name].with_metadata(metadata))
            )
            for name, folder in folders.items()
        }
        for scored in score_batches(store, manifest, questions, units, threads):
            totals.add(scored.totals)
            for name, writer in writers.items():
                writer.write_table(getattr(scored, name).cast(writer.schema))
    return totals


def score_batches(
    store: VotesStore,
    manifest: Manifest,
    questions: Claims,
    units: Sequence[int],
    threads: int | None = None,
) -> Iterator[Scored]:
    """The units a batch at a time, in order, judged side by side: numpy and Parquet share cores."""
    sizes = SIZE_COLUMNS if any(claim.threat.source for claim in questions.claims) else ()
    gaps = ["gaps"] if questions.need_gaps else []
    columns = vote_columns(manifest, "plain_prediction", *sizes, *gaps)
    step = max(1, _BATCH_IMAGES // _unit_images(manifest))
    threads = threads or usable_cpus()

    def work(batch: Sequence[int]) -> Scored:
        return score_votes(store.read_units(batch, columns), manifest, questions)

    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Future[Scored]] = []
        for start in range(0, len(units), step):
            waiting.append(pool.submit(work, units[start : start + step]))
            if len(waiting) > threads:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _unit_images(manifest: Manifest) -> int:
    return max(1, manifest.execution.images // max(1, manifest.execution.units))


def bond_of(questions: Claims, proof: Proof) -> dict[bytes, bytes]:
    """Metadata of the files that answer questions about votes."""
    return {_QUESTIONS: questions.to_json(), **proof.bond}


def questions_in(folders: Iterable[str]) -> Claims:
    """The questions that the files in some folders answer, whatever votes they are of."""
    known = Claims()
    for path in (path for folder in folders for path in storage.list_files(folder)):
        with suppress(ValueError, KeyError, TypeError):
            known |= Claims.from_summary(json.loads(metadata_of(path)[_QUESTIONS]))
    return known


def metadata_of(path: str) -> dict[bytes, bytes]:
    """Metadata of a file; none of one that is not there, or is no Parquet."""
    try:
        with storage.open_read(path) as stream:
            return pq.read_schema(stream).metadata or {}
    except (pa.ArrowException, OSError):
        return {}
