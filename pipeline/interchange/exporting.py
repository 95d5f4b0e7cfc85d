"""A run as files that need nothing of this project to be read: rows, headline, manifest, votes."""

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.certificates.randomized import CONFIDENCE
from pipeline.claims import Questions, own_stride, questions_of
from pipeline.config import ClaimsConfig
from pipeline.curtailing import demand_all_votes
from pipeline.interchange.columns import SPEC
from pipeline.interchange.config import ExportConfig
from pipeline.interchange.folder import SIGN, check_target, published
from pipeline.interchange.headline import headline
from pipeline.interchange.rows import image_rows
from pipeline.interchange.spec import Spec
from pipeline.judging import judge
from pipeline.questions.rendering import parquet, write_csv
from pipeline.questions.run import Run
from pipeline.revision import program_version
from pipeline.summary import Tally

# Images judged at once, and votes in one file: 256 MiB before it is compressed.
_BATCH_IMAGES, _FILE_VOTES = 1 << 13, 1 << 27


def export_run(run: Run, config: ExportConfig) -> dict[str, str]:
    """Write a run's images, headline and manifest, and its votes if asked; paths by name.

    Nothing is written under ``<out>``, and nothing stored there is believed but the votes: the
    certificates are computed anew.

    Raises:
        ConfigError: A question that these votes cannot answer, votes that no file can hold, or a
            folder that is there already.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    check_target(config.to, overwrite=config.overwrite)
    manifest = run.manifest
    questions = questions_of(manifest, _claims(run, config))
    spec = None
    if config.votes is not None:
        demand_all_votes(manifest, "--votes")
        spec = Spec.of(manifest)
    run.store.units(manifest)
    tally, tables, written = Tally(), [], dict[str, dict[str, Any]]()
    with published(config.to, overwrite=config.overwrite) as put:

        def write(name: str, data: bytes) -> None:
            put(name, data)
            written[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

        for table in _batches(run):
            judged = judge(table, manifest, questions)
            tally.add(judged.tally)
            tables.append(image_rows(table, judged, questions))
        run.store.check_count(manifest, tally.images)
        rows = pa.concat_tables(tables)
        write("images.parquet", parquet(rows))
        text = io.StringIO()
        write_csv(rows.schema, rows.to_batches(), text)
        write("images.csv", text.getvalue().encode())
        write("manifest.json", storage.read_bytes(run.store.manifest_path))
        if spec is not None:
            for name, votes in _votes_files(run, spec):
                write(name, parquet(votes))
        summary = headline(manifest, tally.summary(manifest), program_version(), written)
        put(SIGN, (json.dumps(summary, indent=2) + "\n").encode())
    return {name: storage.join(config.to, name) for name in (SIGN, *written)}


def _claims(run: Run, config: ExportConfig) -> ClaimsConfig:
    """What is asked; by default what the run has been certified for."""
    try:
        asked = Questions.from_summary(run.summary or {}).claims
    except (ValueError, KeyError, TypeError):
        asked = frozenset()  # of an older version, or never certified
    own = own_stride(run.manifest)
    known = [claim for claim in asked if claim.top_k == 1 and claim.stride == own]
    threats = sorted({claim.threat for claim in known}, key=lambda threat: threat.order)
    confidences = [claim.confidence for claim in known if claim.confidence is not None]
    return ClaimsConfig(
        patch=config.patch or tuple(map(str, threats)) or None,
        rule=config.rule,
        confidence=max(confidences, default=CONFIDENCE),
    )


def _batches(run: Run) -> Iterator[pa.Table]:
    """All rows, some thousands at a time."""
    names = [name for name in run.manifest.schema.names if name not in ("views", "gaps")]
    waiting: list[pa.Table] = []
    for unit in run.store.read(names):
        waiting.append(unit)
        if sum(table.num_rows for table in waiting) >= _BATCH_IMAGES:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _votes_files(run: Run, spec: Spec) -> Iterator[tuple[str, pa.Table]]:
    """Name and rows of each file of votes: as many as bound the memory that one takes."""
    manifest, store = run.manifest, run.store
    names = ["image_id", "labels" if manifest.several_labels else "label", "votes"]
    names += ["plain_prediction"] if manifest.plain_known else []
    unit_votes = int(manifest.execution["unit_images"]) * manifest.votes_per_image
    units, step = store.units(manifest), max(1, _FILE_VOTES // unit_votes)
    for number, start in enumerate(range(0, len(units), step)):
        of_file = units[start : start + step]
        table = pa.concat_tables(store.read_unit(unit, [*names, "error"]) for unit in of_file)
        if table["error"].null_count == table.num_rows:
            table = table.drop_columns("error")
        name = "votes" if step >= len(units) else f"votes-{number:03d}"
        yield f"{name}.parquet", table.replace_schema_metadata({SPEC: spec.to_json()})
