"""Claims about a run: defaults, and checks that its votes can answer them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from models.views.threats import Threat
from pipeline.certificates.detection import check_detection
from pipeline.certificates.rule import Terms
from pipeline.certificates.rules import default_rules, rule_for
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.runs.defense import Defense
from pipeline.runs.resolve import default_threats
from pipeline.runs.schema import ClaimEntry
from pipeline.scoring.source import check_source, stand_in


class Claim(NamedTuple):
    """A rule against a threat, to be certified.

    Attributes:
        rule: Name of the rule.
        threat: What the attacker may do.
        top_k: Places to stay in; 1 asks whether the prediction stays.
        stride: Of the ablations whose votes count; None for random positions.
        confidence: Of a probabilistic rule, for each image; None for a proof.
        assumes: The largest patch, for a decision that is built for one; else None.
        tau: Gap of the two largest logits up to which a view has no say; None lets all speak.
    """

    rule: str
    threat: Threat
    top_k: int = 1
    stride: int | None = None
    confidence: float | None = None
    assumes: Threat | None = None
    tau: float | None = None

    @property
    def terms(self) -> Terms:
        """The terms under which the rule is asked."""
        return Terms(self.confidence, self.assumes, self.tau)

    def to_dict(self) -> ClaimEntry:
        """Plain JSON, as in the summary and the columns of the certificates."""
        return {
            "rule": self.rule,
            "threat": str(self.threat),
            "top_k": self.top_k,
            "stride": self.stride,
            "confidence": self.confidence,
            "patch_px": self.threat.side,
            "assumes": None if self.assumes is None else str(self.assumes),
            "tau": self.tau,
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "Claim":
        """Inverse of ``to_dict``; other keys are left aside."""
        values = {name: entry[name] for name in cls._fields}
        values["threat"] = Threat.parse(entry["threat"])
        if entry["assumes"] is not None:
            values["assumes"] = Threat.parse(entry["assumes"])
        return cls(**values)

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key: by stride, places and threat; then the rules side by side."""
        return (
            self.stride or 0,
            self.top_k,
            self.threat.order,
            self.rule,
            self.confidence or 0.0,
            () if self.assumes is None else self.assumes.order,
            -1.0 if self.tau is None else self.tau,
        )


class Alert(NamedTuple):
    """Attacks of a threat that an alert at near ties is to detect.

    Attributes:
        threat: What the attacker may do.
        stride: Of the ablations whose votes count; None for random positions.
    """

    threat: Threat
    stride: int | None = None

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key."""
        return self.stride or 0, self.threat.order


@dataclass(frozen=True)
class Claims:
    """Everything asked of a run.

    Attributes:
        claims: What is certified.
        alerts: What is detected.
    """

    claims: frozenset[Claim] = frozenset()
    alerts: frozenset[Alert] = frozenset()

    @property
    def need_gaps(self) -> bool:
        """True where some claim looks at the gaps of the views."""
        return any(claim.tau is not None for claim in self.claims)

    def __or__(self, other: "Claims") -> "Claims":
        return Claims(self.claims | other.claims, self.alerts | other.alerts)

    def __le__(self, other: "Claims") -> bool:
        return self.claims <= other.claims and self.alerts <= other.alerts

    def to_json(self) -> bytes:
        """One text for equal questions; ``from_summary`` reads it back."""
        claims = [claim.to_dict() for claim in sorted(self.claims, key=lambda c: c.order)]
        alerts = [
            {"threat": str(alert.threat), "stride": alert.stride}
            for alert in sorted(self.alerts, key=lambda a: a.order)
        ]
        return json.dumps({"certified_accuracy": claims, "detection": alerts}).encode()

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> "Claims":
        """The questions that a summary answers.

        Raises:
            KeyError, TypeError, ValueError: It is none.
        """
        alerts = ((Threat.parse(e["threat"]), e["stride"]) for e in summary["detection"])
        return cls(
            frozenset(map(Claim.from_dict, summary["certified_accuracy"])),
            frozenset(Alert(*alert) for alert in alerts),
        )


def resolve_claims(defense: Defense, claims: ClaimsConfig, stride: int | None = None) -> Claims:
    """Fill in every default of a request, and check that the votes can answer it.

    Args:
        defense: The defense that votes.
        claims: The request.
        stride: Of the ablations whose votes are to be counted; None for the run's own.

    Raises:
        ConfigError: A threat does not fit the image, a rule not the votes, the threat or the
            places, or the stride has ablations that did not vote.
    """
    randomized = defense.voting.draws is not None
    stride = defense.own_stride if stride is None else stride
    classes = len(defense.network.voted_classes)
    found, alerts = set(), set()
    try:
        views = defense.views_at(stride)
        assumed = claims.assumed and claims.assumed.on(views)
        for given in claims.threats or default_threats(views):
            threat = given.on(views)
            if threat.source:
                check_source(defense, threat)
            asked = product(_places_and_rules(defense, claims), _taus(defense, claims))
            for (k, name), tau in asked:
                rule = rule_for(
                    name,
                    randomized=randomized,
                    confidence=claims.confidence,
                    assumed=assumed,
                    tau=tau,
                )
                if tau is not None and not rule.takes_tau:
                    continue
                # On the source the rule is held against each picture's own rectangle later.
                on_grid = stand_in(views, assumed) if threat.source else threat
                rule.check(views, on_grid, classes, k)
                if defense.voting.early_exit:
                    rule.check_early(views, on_grid)
                # Early exit answers for the covered patch alone.
                of_all = threat.source and defense.voting.early_exit
                built_for = assumed or (on_grid if of_all else threat)
                assumes = built_for if rule.knows_patch else None
                found.add(Claim(name, threat, k, stride, rule.confidence, assumes, tau))
            if claims.detect:
                _check_alert(threat, defense)
                alerts.add(Alert(threat, stride))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Claims(frozenset(found), frozenset(alerts))


def _taus(defense: Defense, claims: ClaimsConfig) -> tuple[float | None, ...]:
    """The gaps that are asked about, after None, which lets every view speak."""
    if claims.tau and defense.voting.vote_sets:
        raise ConfigError(
            "--tau: it is about views of one label each, and these votes are sets of classes "
            "(--voting threshold); leave it out, or vote with --voting argmax --gaps, which is "
            "another run"
        )
    if claims.tau and not defense.voting.gaps:
        raise ConfigError(
            "--tau: these votes were cast without gaps; vote with --gaps, which is another run"
        )
    return (None, *(claims.tau or ()))


def _places_and_rules(defense: Defense, claims: ClaimsConfig) -> list[tuple[int, str]]:
    """Each number of places with each rule; by default those that speak of it."""
    if claims.rule is not None:
        return list(product(claims.top_k, claims.rule))
    return [
        (k, rule.name)
        for k in claims.top_k
        for rule in default_rules(
            defense.views, randomized=defense.voting.draws is not None, top_k=k
        )
    ]


def _check_alert(threat: Threat, defense: Defense) -> None:
    """Raise ValueError unless detection knows such threats and votes."""
    if defense.views.hides:
        raise ValueError(
            "--detect: it is about near ties in the votes of ablations; of masks ask for --rule "
            "one-location"
        )
    if defense.voting.draws is not None:
        raise ValueError(
            "--detect: it counts the votes of all ablations, and --randomized drew some"
        )
    check_detection(defense.ablation, threat)
