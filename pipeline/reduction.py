"""From stored votes to certificates and a summary: no GPU, no model, no images."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.ablation import Ablation, Patch
from pipeline import storage
from pipeline.ballots import votes_array
from pipeline.certificates.randomized import CONFIDENCE
from pipeline.certificates.rules import rule_for
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.manifest import Manifest
from pipeline.resolve import default_patches
from pipeline.schema import CERTIFICATES
from pipeline.store import VotesStore
from pipeline.summary import Claim, Tally

# Metadata of the certificates file: two certifications at once must not leave the summary of one
# beside the rows of the other for good.
_CLAIMS = b"patchcert.claims"
# Columns of the votes that no certificate needs.
_UNUSED = ("counts", "views", "gaps")


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
        ConfigError: A patch does not fit the image, or a rule not the votes.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    manifest = store.begun()
    asked = check_claims(manifest.ablation, claims, randomized=manifest.draws is not None)
    summary_path = storage.join(store.out, "summary", f"run_id={store.run_id}.json")
    certificates_path = storage.join(
        store.out, "certificates", f"run_id={store.run_id}", "certificates.parquet"
    )
    paths = {"summary_path": summary_path, "certificates_path": certificates_path}
    earlier = None if overwrite else _read_summary(summary_path)
    known = _claims_of(earlier)
    if (
        earlier
        and asked <= known
        and known == _claims_stored(certificates_path)
        and store.is_complete(manifest)
    ):
        return Certified(manifest=manifest, summary=earlier, computed=False, **paths)
    tally, sink = Tally(), io.BytesIO()
    claimed = json.dumps(sorted(asked | known, key=str)).encode()
    schema = CERTIFICATES.with_metadata({_CLAIMS: claimed})
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        for table in store.read([name for name in manifest.schema.names if name not in _UNUSED]):
            votes = votes_array(table, manifest.theta)
            margins = {claim: _margins(votes, manifest, claim) for claim in asked | known}
            tally.add(table, votes, {claim: margin >= 0 for claim, margin in margins.items()})
            writer.write_table(_certificate_rows(table, margins).cast(schema))
    summary = tally.summary(store.run_id, manifest.ablation, manifest.votes_per_image)
    # The summary last: it is what a later call takes as the sign that all is there.
    storage.write_atomically(certificates_path, sink.getvalue())
    text = json.dumps(summary, indent=2, sort_keys=True) + "\n"
    storage.write_atomically(summary_path, text.encode())
    return Certified(manifest=manifest, summary=summary, computed=True, **paths)


def check_claims(ablation: Ablation, claims: ClaimsConfig, *, randomized: bool) -> set[Claim]:
    """The claims to certify.

    Raises:
        ConfigError: A patch does not fit the image, or a rule not such votes.
    """
    names = claims.rule or (("randomized",) if randomized else ("exact", "uniform"))
    sides = claims.patch or default_patches(ablation)
    try:
        rules = [
            rule_for(name, randomized=randomized, confidence=claims.confidence) for name in names
        ]
        for side in sides:
            ablation.check_patch(Patch.square(side))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return {
        Claim(rule.name, side, None if rule.deterministic else claims.confidence)
        for rule in rules
        for side in sides
    }


def _margins(votes: NDArray[np.int64], manifest: Manifest, claim: Claim) -> NDArray[np.int64]:
    """Margins of images with votes; int (N,)."""
    if not len(votes):
        return np.empty(0, dtype=np.int64)
    rivals = manifest.num_classes
    if manifest.classes is not None:
        # Classes that no ablation can vote for are no rivals. Renumbering keeps their order, and
        # with it every tie.
        rivals = len(manifest.classes)
        votes = np.where(votes < 0, votes, np.searchsorted(manifest.classes, votes))
    rule = rule_for(
        claim.rule,
        randomized=manifest.draws is not None,
        confidence=claim.confidence or CONFIDENCE,
    )
    return rule.margins(votes, manifest.ablation, Patch.square(claim.patch_px), rivals)


def _certificate_rows(table: pa.Table, margins: dict[Claim, NDArray[np.int64]]) -> pa.Table:
    """Rows of the certificates dataset, claim by claim."""
    voted = table["error"].is_null().to_numpy()
    parts: list[pa.Table] = []
    for claim, margin in margins.items():
        spread = np.zeros(table.num_rows, dtype=np.int32)
        spread[voted] = margin
        columns: Sequence[Any] = [
            table["image_id"],
            table["label"],
            table["prediction"],
            pa.repeat(pa.scalar(claim.patch_px, pa.int32()), table.num_rows),
            pa.repeat(claim.rule, table.num_rows),
            pa.array(voted & (spread >= 0)),
            pa.array(spread, mask=~voted),
            pa.repeat(pa.scalar(claim.confidence, pa.float64()), table.num_rows),
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


def _claims_stored(path: str) -> set[Claim] | None:
    """The claims that a certificates file holds; None where there is no such file."""
    if not storage.exists(path):
        return None
    with storage.open_read(path) as stream:
        metadata = pq.read_schema(stream).metadata or {}
    return {Claim(*claim) for claim in json.loads(metadata.get(_CLAIMS, b"[]"))}


def _claims_of(summary: dict[str, Any] | None) -> set[Claim]:
    entries = summary["certified_accuracy"] if summary else []
    return {Claim(entry["rule"], entry["patch_px"], entry["confidence"]) for entry in entries}
