"""What a run is: the facts that determine its votes, and the id derived from them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from models.errors import JobError
from models.views.ablations import Ablation
from pipeline.runs.schema import votes_schema

Json = Any

AS_GIVEN = (
    "imported votes: certificates hold of the votes as given; that a vote depends on nothing but "
    "the pixels its ablation shows is not vouched for"
)
"""What is said beside every figure of a run that was imported."""


class ManifestError(JobError):
    """A manifest contradicts its id, or another run's configuration."""


def canonical(value: Json) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def flatten(value: Json, prefix: str = "") -> dict[str, Json]:
    """Nested JSON objects as one, with dotted names."""
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
class Manifest:
    """The ``_manifest.json`` beside the votes.

    Attributes:
        identity: Everything that determines the votes, nested plain JSON.
        execution: What does not: actors, unit size, host, times, counts.
    """

    identity: Mapping[str, Json]
    execution: Mapping[str, Json] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """``r`` and 16 hex digits, derived from the identity alone."""
        return "r" + hashlib.sha256(canonical(self.identity)).hexdigest()[:16]

    @property
    def ablation(self) -> Ablation:
        """The geometry of the votes."""
        return Ablation(**self.identity["ablation"])

    @property
    def num_classes(self) -> int:
        """Length of the logits that voted."""
        return int(self.identity["model"]["num_classes"])

    @property
    def classes(self) -> tuple[int, ...] | None:
        """Classes that the logits were restricted to, ascending; None for all."""
        classes = self.identity["model"].get("classes")
        return None if classes is None else tuple(classes)

    @property
    def theta(self) -> float | None:
        """Threshold of threshold voting; None for argmax votes."""
        theta: float | None = self.identity.get("voting", {}).get("theta")
        return theta

    @property
    def gaps(self) -> bool:
        """Whether top-two logit gaps are stored."""
        return bool(self.identity.get("voting", {}).get("gaps"))

    @property
    def draws(self) -> int | None:
        """Positions drawn for each image; None where every image has the same ablations."""
        draws: int | None = self.identity.get("randomized", {}).get("draws")
        return draws

    @property
    def votes_per_image(self) -> int:
        """Ablations that voted on one image."""
        return self.draws or len(self.ablation)

    @property
    def several_labels(self) -> bool:
        """Whether an image may have several right classes."""
        return bool(self.identity.get("data", {}).get("several_labels"))

    @property
    def imported(self) -> bool:
        """Whether the votes were cast elsewhere, so that nothing of how is vouched for."""
        return "imported" in self.identity

    @property
    def plain_known(self) -> bool:
        """Whether the votes came with what the network says of each whole image."""
        return bool(self.identity.get("imported", {}).get("plain", True))

    @property
    def schema(self) -> pa.Schema:
        """Columns of the run's votes."""
        return votes_schema(
            views=self.draws is not None,
            vote_sets=self.theta is not None,
            gaps=self.gaps,
            labels=self.several_labels,
        )

    def to_json(self) -> bytes:
        """The file's bytes; ``from_json`` reads them back."""
        body = {
            "run_id": self.run_id,
            "identity": self.identity,
            "execution": self.execution,
            # One checksum a field, so that an edited manifest can be told which field lies.
            "checksums": _checksums(self.identity),
        }
        return (json.dumps(body, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, *, run_id: str, where: str) -> "Manifest":
        """Read a manifest and hold it against the id it is filed under.

        Raises:
            ManifestError: Not a manifest, a field that contradicts the id, named, or a run of an
                earlier version whose votes ended early or are of several device models.
        """
        try:
            body = json.loads(data)
            manifest = cls(identity=body["identity"], execution=body["execution"])
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
            if manifest.identity.get("numerics", {}).get("device_model") == "mixed":
                raise ManifestError(
                    f"{where}: votes of several device models (--allow-mixed-devices), which are "
                    "no longer read: move or delete the run, and vote again on one model"
                )
            return manifest
        actual = _checksums(manifest.identity)
        fields = sorted(
            name
            for name in actual.keys() | checksums.keys()
            if actual.get(name) != checksums.get(name)
        )
        named = ", ".join(fields) or "run_id"
        raise ManifestError(
            f"{where}: contradicts run_id={run_id} in: {named}. The votes beside it were made with "
            "other settings than it says; restore the file, or delete the run and vote again"
        )
