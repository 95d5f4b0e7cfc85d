"""From stored votes to certificates and a summary: no GPU, no model, no images."""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.ablation import Ablation, Patch
from pipeline import storage
from pipeline.certificates.rules import RULES
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.manifest import Manifest, ManifestError
from pipeline.resolve import default_patches
from pipeline.schema import CERTIFICATES
from pipeline.store import VotesStore
from pipeline.summary import Claim, Tally


@dataclass(frozen=True, kw_only=True)
class Certified:
    """What a certification wrote.

    Attributes:
        manifest: The run's manifest.
        summary: The summary, as in the file.
        summary_path: Where it lies.
        certificates_path: Where the certificates lie.
        computed: False where everything asked was there already.
    """

    manifest: Manifest
    summary: dict[str, Any]
    summary_path: str
    certificates_path: str
    computed: bool


def certify_votes(store: VotesStore, claims: ClaimsConfig, *, overwrite: bool = False) -> Certified:
    """Certify every image of a run under each rule and patch size.

    What was certified before stays: the results cover every claim ever asked of the run.

    Raises:
        ConfigError: A patch does not fit the image.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    manifest = store.read_manifest()
    if manifest is None:
        raise ManifestError(
            f"run_id={store.run_id}: no votes under {store.out}; run `patchcert votes` first"
        )
    ablation = manifest.ablation
    sides = check_claims(ablation, claims)
    summary_path = storage.join(store.out, "summary", f"run_id={store.run_id}.json")
    certificates_path = storage.join(
        store.out, "certificates", f"run_id={store.run_id}", "certificates.parquet"
    )
    earlier = None if overwrite else _read_summary(summary_path)
    known = _claims_of(earlier)
    wanted = sorted({(rule, side) for rule in claims.rule for side in sides} | known)
    paths = {"summary_path": summary_path, "certificates_path": certificates_path}
    if earlier and set(wanted) == known and storage.exists(certificates_path):
        return Certified(manifest=manifest, summary=earlier, computed=False, **paths)
    tally = Tally()
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, CERTIFICATES, compression="zstd") as writer:
        for table in store.read(
            ["image_id", "label", "votes", "prediction", "plain_prediction", "error"]
        ):
            margins = _margins(table, manifest, wanted)
            tally.add(
                table,
                _votes_of(table),
                {claim: margin >= 0 for claim, margin in margins.items()},
            )
            writer.write_table(_certificate_rows(table, margins))
    summary = tally.summary(store.run_id, ablation)
    # The summary last: it is what a later call takes as the sign that all is there.
    storage.write_atomically(certificates_path, sink.getvalue())
    text = json.dumps(summary, indent=2, sort_keys=True) + "\n"
    storage.write_atomically(summary_path, text.encode())
    return Certified(manifest=manifest, summary=summary, computed=True, **paths)


def check_claims(ablation: Ablation, claims: ClaimsConfig) -> tuple[int, ...]:
    """The patch sides to certify, in pixels.

    Raises:
        ConfigError: A patch does not fit the image.
    """
    sides = claims.patch or default_patches(ablation)
    for side in sides:
        try:
            ablation.check_patch(Patch.square(side))
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return sides


def _votes_of(table: pa.Table) -> NDArray[np.int64]:
    """Votes of the rows without an error; int (N, V)."""
    cells = table["votes"].drop_null()
    if not len(cells):
        return np.empty((0, 0), dtype=np.int64)
    flat = cells.combine_chunks().flatten().to_numpy()
    votes: NDArray[np.int64] = flat.reshape(len(cells), -1).astype(np.int64)
    return votes


def _margins(
    table: pa.Table, manifest: Manifest, claims: Iterable[Claim]
) -> dict[Claim, NDArray[np.int64]]:
    """Margins of the rows without an error, per claim; int (N,)."""
    votes = _votes_of(table)
    if not len(votes):
        return {claim: np.empty(0, dtype=np.int64) for claim in claims}
    return {
        (rule, side): RULES[rule].margins(
            votes, manifest.ablation, Patch.square(side), manifest.num_classes
        )
        for rule, side in claims
    }


def _certificate_rows(table: pa.Table, margins: dict[Claim, NDArray[np.int64]]) -> pa.Table:
    """Rows of the certificates dataset, claim by claim."""
    voted = table["error"].is_null().to_numpy()
    parts: list[pa.Table] = []
    for (rule, side), margin in margins.items():
        spread = np.zeros(table.num_rows, dtype=np.int32)
        spread[voted] = margin
        columns: Sequence[Any] = [
            table["image_id"],
            table["label"],
            table["prediction"],
            pa.repeat(pa.scalar(side, pa.int32()), table.num_rows),
            pa.repeat(rule, table.num_rows),
            pa.array(voted & (spread >= 0)),
            pa.array(spread, mask=~voted),
        ]
        parts.append(pa.table(columns, schema=CERTIFICATES))
    return pa.concat_tables(parts)


def _read_summary(path: str) -> dict[str, Any] | None:
    if not storage.exists(path):
        return None
    try:
        summary: dict[str, Any] = json.loads(storage.read_bytes(path))
        _claims_of(summary)
    except (ValueError, KeyError, TypeError):
        return None  # Derived data: computed again rather than believed.
    return summary


def _claims_of(summary: dict[str, Any] | None) -> set[Claim]:
    entries = summary["certified_accuracy"] if summary else []
    return {(str(entry["rule"]), int(entry["patch_px"])) for entry in entries}
