"""Which of a run's certificates the page looks at more closely."""

from dataclasses import dataclass
from typing import Any

from pipeline.certificates.threats import Threat
from pipeline.claims import Claim, own_stride
from pipeline.config import ConfigError
from pipeline.manifest import Manifest

# The tightest first.
_RULES = ("exact", "randomized", "uniform")


@dataclass(frozen=True)
class Focus:
    """The certificates of one rule against squares.

    Attributes:
        claims: Up to three, by size: the smallest, the middle and the largest that was asked for.
        claim: The middle one, of which details are shown.
    """

    claims: tuple[Claim, ...]
    claim: Claim

    @property
    def threats(self) -> tuple[Threat, ...]:
        """The squares."""
        return tuple(claim.threat for claim in self.claims)


def focus_of(manifest: Manifest, summary: dict[str, Any]) -> Focus:
    """The certificates to look at, of the run's own ablations.

    Raises:
        ConfigError: The run has none against a square.
    """
    asked = [Claim.from_dict(entry) for entry in summary["certified_accuracy"]]
    squares = [
        claim
        for claim in asked
        if claim.threat.side is not None
        and claim.top_k == 1
        and claim.stride == own_stride(manifest)
    ]
    rule = next((rule for rule in _RULES if any(claim.rule == rule for claim in squares)), None)
    if rule is None:
        raise ConfigError(
            f"run {manifest.run_id} has no certificate against a square patch; "
            "`patchcert certify --patch ...` computes one"
        )
    # A later claim of the same square, at another confidence, says it again.
    of_rule = {claim.threat: claim for claim in squares if claim.rule == rule}
    ordered = [of_rule[threat] for threat in sorted(of_rule, key=lambda threat: threat.order)]
    middle = len(ordered) // 2
    shown = sorted({0, middle, len(ordered) - 1})
    return Focus(tuple(ordered[place] for place in shown), ordered[middle])
