"""The manifest of a run: the facts that determine its votes, and the id derived from them.

``Manifest`` alone reads the stored JSON; all else asks ``defense``, ``data``, ``numerics`` and
``execution``.
"""

import hashlib
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from models.errors import JobError
from models.networks.weights import HUB, MODULE
from pipeline import storage
from pipeline.config import VotesConfig
from pipeline.runs.cpus import usable_cpus
from pipeline.runs.defense import Defense
from pipeline.runs.error_images import ErrorImages
from pipeline.runs.numerics import Numerics
from pipeline.runs.schema import votes_schema
from pipeline.sources.listing import Listing
from pipeline.storage.patterns import expand_braces

Json = Any

_DIGEST_ROWS = 1 << 16

AS_GIVEN = (
    "imported votes: certificates hold of the votes as given; that a vote depends on nothing but "
    "the pixels its ablation shows is not vouched for"
)
"""Caveat printed beside every figure of an imported run."""


class ManifestError(JobError):
    """A manifest contradicts its id, or another run's configuration."""


def canonical(value: Json) -> bytes:
    """Write a value as its one JSON text: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def flatten(value: Json, prefix: str = "") -> dict[str, Json]:
    """Flatten nested JSON objects into one, with dotted names."""
    if isinstance(value, Mapping):
        flat: dict[str, Json] = {}
        for key in sorted(value):
            flat |= flatten(value[key], f"{prefix}{key}.")
        return flat
    return {prefix[:-1]: value}


def _checksums(identity: Json) -> dict[str, str]:
    return {
        name: hashlib.sha256(canonical(value)).hexdigest()[:8]
        for name, value in flatten(identity).items()
    }


@dataclass(frozen=True, kw_only=True)
class DataIdentity:
    """The images of a run, as far as they decide its votes and its figures.

    Attributes:
        kind: Layout of the source: webdataset, parquet, folder, or imported.
        fingerprint: Digest of the files that were listed.
        limit: Number of first images that were taken; None for all.
        image_column: Column of the images in Parquet shards; None for the default.
        rows_sha256: Digest of the listed ids and labels.
        several_labels: True if an image may have several right classes.
    """

    kind: str = "unknown"
    fingerprint: str = ""
    limit: int | None = None
    image_column: str | None = None
    rows_sha256: str | None = None
    several_labels: bool = False


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Facts of a run that do not change its votes.

    Attributes:
        data: Place of the images.
        images: Number of images.
        unit_images: Images a unit, which is voted on and committed at once.
        units: Number of units.
        weights: Place of the weights.
        actors: Voting actors that were asked for; None for as many as fit.
        host: Name of the driver's machine.
        cpus: CPUs that the driver may use.
        started: Time at which the run was begun, UTC.
        finished: Time at which it was finished; None before.
        voting_seconds: Time of voting; None where it took several calls, of which those that were
            ended early could not write theirs.
        error_images: Images without votes, once the run is finished.
        files: Files of imported votes.
        imported_by: Program that imported the votes.
        bits_checked: True if every actor first looked whether a slot or a neighbour changes the
            bits of a view's logits; None of an earlier version, and of imported votes.
        digests: True if the digest of its rows is in each unit's file; None of an earlier version.
    """

    data: str = ""
    images: int = 0
    unit_images: int = 1
    units: int = 0
    weights: str | None = None
    actors: int | None = None
    host: str | None = None
    cpus: int | None = None
    started: str | None = None
    finished: str | None = None
    voting_seconds: float | None = None
    error_images: ErrorImages | None = None
    files: Sequence[Mapping[str, Json]] | None = None
    imported_by: str | None = None
    bits_checked: bool | None = None
    digests: bool | None = None

    def to_dict(self) -> dict[str, Json]:
        """Write plain JSON; unknown facts are left out."""
        facts = {field.name: getattr(self, field.name) for field in fields(self)}
        errors = facts.pop("error_images")
        facts["faulty"] = None if errors is None else errors.to_dict()
        return {name: value for name, value in facts.items() if value is not None}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Json]) -> "Execution":
        """Read what ``to_dict`` wrote; facts that this version does not know are left aside."""
        known = {field.name: facts[field.name] for field in fields(cls) if field.name in facts}
        if facts.get("faulty") is not None:
            known["error_images"] = ErrorImages(**facts["faulty"])
        return cls(**known)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The ``_manifest.json`` beside the votes.

    Attributes:
        identity: Everything that determines the votes, nested plain JSON. Read it through
            ``defense``, ``data`` and ``numerics``.
        execution: Facts that do not change the votes.
    """

    identity: Mapping[str, Json]
    execution: Execution = Execution()

    @cached_property
    def run_id(self) -> str:
        """``r`` and 16 hex digits, derived from the identity alone."""
        return "r" + hashlib.sha256(canonical(self.identity)).hexdigest()[:16]

    @cached_property
    def defense(self) -> Defense:
        """The defense that cast the votes."""
        return Defense.from_identity(self.identity, self.execution.weights or "")

    @cached_property
    def data(self) -> DataIdentity:
        """The images of the run."""
        facts = self.identity.get("data", {})
        names = [field.name for field in fields(DataIdentity)]
        return DataIdentity(**{name: facts[name] for name in names if facts.get(name) is not None})

    @cached_property
    def numerics(self) -> Numerics:
        """Arithmetic of the votes; "unknown" where it was not recorded."""
        facts = {"versions": self.identity.get("versions", {})} | self.identity.get("numerics", {})
        return Numerics(**facts)

    def identity_but_stride(self) -> bytes:
        """Return one text for all runs that differ in the stride of their views alone."""
        views = dict(self.identity.get("ablation", {}), stride=0)
        return canonical({**self.identity, "ablation": views})

    @property
    def imported(self) -> bool:
        """True if another program cast the votes, so that only their count can be checked."""
        return "imported" in self.identity

    @property
    def plain_known(self) -> bool:
        """True if predictions on whole images are stored beside the votes."""
        return bool(self.identity.get("imported", {}).get("plain", True))

    @property
    def schema(self) -> pa.Schema:
        """Columns of the run's votes."""
        voting = self.defense.voting
        return votes_schema(
            views=voting.draws is not None,
            vote_sets=voting.vote_sets,
            gaps=voting.gaps,
            labels=self.data.several_labels,
            sizes=not self.imported,
        )

    def to_json(self) -> bytes:
        """Write the bytes of the file; ``from_json`` reads them back."""
        body = {
            "run_id": self.run_id,
            "identity": self.identity,
            "execution": self.execution.to_dict(),
            # One checksum a field, so that an edited manifest can be told which field lies.
            "checksums": _checksums(self.identity),
        }
        return (json.dumps(body, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, *, run_id: str, where: str) -> "Manifest":
        """Read a manifest and hold it against the id it is filed under.

        Raises:
            ManifestError: It is no manifest, a field contradicts the id, or the run is of an
                earlier version whose votes ended early or are of several device models.
        """
        try:
            body = json.loads(data)
            manifest = cls(
                identity=body["identity"], execution=Execution.from_dict(body["execution"])
            )
            checksums = dict(body["checksums"])
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(f"{where}: not a manifest ({error}); delete the run") from error
        if manifest.run_id == run_id == body.get("run_id"):
            if "decide" in manifest.identity:
                raise ManifestError(
                    f"{where}: the votes of run_id={run_id} ended early (--decide, an option of "
                    "earlier versions), and certificates need the vote of every ablation; delete "
                    "the run and vote again"
                )
            if manifest.numerics.device_model == "mixed":
                raise ManifestError(
                    f"{where}: votes of several device models (--allow-mixed-devices), which are "
                    "no longer read: move or delete the run, and vote again on one model"
                )
            return manifest
        actual = _checksums(manifest.identity)
        wrong = sorted(
            name
            for name in actual.keys() | checksums.keys()
            if actual.get(name) != checksums.get(name)
        )
        named = ", ".join(wrong) or "run_id"
        raise ManifestError(
            f"{where}: contradicts run_id={run_id} in: {named}. The votes beside it were made with "
            "other settings than it says; restore the file, or delete the run and vote again"
        )


def new_manifest(
    config: VotesConfig, defense: Defense, numerics: Numerics, listing: Listing
) -> Manifest:
    """Make the manifest of a votes job that is about to begin."""
    data = DataIdentity(
        kind=listing.kind,
        fingerprint=listing.fingerprint,
        limit=config.limit,
        image_column=config.image_column,
        rows_sha256=rows_digest(listing.table),
        several_labels=has_several_labels(listing.table),
    )
    facts = {"data": asdict(data), **defense.to_identity(), "numerics": numerics.to_dict()}
    return Manifest(identity=facts, execution=execution_of(config, len(listing)))


def rows_digest(table: pa.Table) -> str:
    """Compute a digest of the listed ids and labels, which options such as a label map decide."""
    digest = hashlib.sha256()
    add_rows(digest, table)
    return digest.hexdigest()


def add_rows(digest: "hashlib._Hash", table: pa.Table) -> None:
    """Add the ids and labels of listed or stored rows to the digest of ``rows_digest``."""
    names = [name for name in ("image_id", "label", "labels") if name in table.schema.names]
    # A batch at a time: as Python objects, a million rows take several times their table's memory.
    for batch in table.select(names).to_batches(_DIGEST_ROWS):
        # Stored rows have the column only where an image may have several right classes.
        if "labels" not in names or batch["labels"].null_count == batch.num_rows:
            # The same text, written by Arrow: every read of a run waits for it.
            label = batch["label"].cast(pa.string()).fill_null("None")
            lines = pc.binary_join_element_wise(batch["image_id"], label, "None\n", "\0")
            whole = pa.ListArray.from_arrays([0, len(lines)], lines)
            digest.update(pc.binary_join(whole, "")[0].as_buffer())
            continue
        for image_id, one, several in zip(*batch.to_pydict().values(), strict=True):
            digest.update(f"{image_id}\0{one}\0{several}\n".encode())


def has_several_labels(table: pa.Table) -> bool:
    """Return True if the ground truth of a listing gives sets of labels."""
    return bool(table["labels"].null_count < table.num_rows)


def execution_of(config: VotesConfig, images: int) -> Execution:
    """Write down the facts of a job that do not change its votes."""
    # Small enough to show progress and lose little, large enough to keep an actor busy.
    unit_images = config.unit_images or min(256, max(16, -(-images // 16)))
    return Execution(
        data=_lasting(config.data),
        weights=config.weights
        if config.weights.startswith((HUB, MODULE))
        else _lasting(config.weights),
        images=images,
        unit_images=unit_images,
        units=-(-images // unit_images),
        actors=config.actors,
        host=platform.node(),
        cpus=usable_cpus(),
        started=utc_now(),
        bits_checked=True,
        digests=True,
    )


def _lasting(place: str) -> str:
    """Return a place that means the same from every working folder; ``s3://`` as it is."""
    full = storage.full_path(place)
    # Alternatives that are absolute or on S3 themselves bear no folder before them.
    meant = [storage.full_path(one) for one in expand_braces(place)]
    return full if expand_braces(full) == meant else place


def utc_now() -> str:
    """Write the time now, UTC, as manifests hold it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def finish_manifest(manifest: Manifest, seconds: float | None, errors: ErrorImages) -> Manifest:
    """Add what is known at the end of a run; its identity, and so its id, stays.

    Args:
        manifest: Of the run.
        seconds: Time of voting; None where earlier calls did a part of it.
        errors: Images without votes.
    """
    spent = None if seconds is None else round(seconds, 1)
    facts = replace(
        manifest.execution, finished=utc_now(), voting_seconds=spent, error_images=errors
    )
    return replace(manifest, execution=facts)
