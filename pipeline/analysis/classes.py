"""Accuracies of a run, class by class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.errors import WeightsError
from models.networks.weights import read_card
from models.views.threats import Threat
from pipeline.analysis.outcomes import PLAIN, SMOOTHED, Measure, Outcomes
from pipeline.certificates.rules import default_rules, drawing_order, rule_named
from pipeline.config import ConfigError
from pipeline.runs.manifest import Manifest
from pipeline.scoring.intervals import Proportion


@dataclass(frozen=True)
class ClassRow:
    """The images of one class.

    Attributes:
        label: Number of the class.
        images: Its images, those with an error too; one of several right classes is counted in
            each of them, and right in each if its prediction is any of them.
        errors: Those that could not be voted on: wrong in everything.
        shares: By question, the images that are right, of ``images``.
    """

    label: int
    images: int
    errors: int
    shares: Mapping[Measure, Proportion]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "label": self.label,
            "images": self.images,
            "images_with_error": self.errors,
            "questions": [
                question.to_dict() | share.to_dict() for question, share in self.shares.items()
            ],
        }


def columns(
    outcomes: Outcomes, threats: Sequence[Threat] | None = None, rule: str | None = None
) -> list[Measure]:
    """The questions to show: plain, smoothed, and certificates that the answer stays.

    A rule that owns its answer has its clean accuracy before each certificate.

    Args:
        outcomes: Of a run.
        threats: Only certificates against these; None for all.
        rule: Only certificates of this rule; None for the tightest of those asked: exact, or of
            masks two-location.

    Raises:
        ConfigError: There is no such rule, or a threat, or the rule, has no certificate.
    """
    if rule is not None:
        try:
            rule_named(rule)
        except ValueError as error:
            raise ConfigError(f"--{error}") from error
    run = outcomes.run
    drawn = run.manifest.defense.voting.draws is not None
    own = [
        question
        for question in sorted(outcomes.unattacked, key=lambda question: question.order)
        if question.claim and question.claim.stride is None
    ]
    asked = {question.claim.rule for question in own if question.claim}
    default = drawing_order(default_rules(run.views, randomized=drawn))
    wanted = rule or next(filter(asked.__contains__, drawing_order()), default[0])
    certified: dict[Threat, list[Measure]] = {}
    for question in own:
        assert question.claim is not None
        if question.claim.rule == wanted:
            clean = Measure("clean", question.claim)
            shown = [clean] if clean in outcomes.right else []
            certified.setdefault(question.claim.threat, []).extend([*shown, question])
    threats = threats and [threat.on(run.views) for threat in threats]
    missing = [str(threat) for threat in threats or () if threat not in certified]
    if missing or (rule is not None and not certified):
        raise ConfigError(
            f"run {run.run_id} has no {wanted} certificate"
            + (f" against {', '.join(missing)} px" if missing else "")
            + "; `patchcert certify --patch ... --rule ...` computes one"
        )
    found = [one for threat in threats or certified for one in certified[threat]]
    first = [question for question in (PLAIN, SMOOTHED) if question in outcomes.right]
    return [*first, *sorted(found, key=lambda question: question.order)]


def by_class(outcomes: Outcomes) -> list[ClassRow]:
    """One row a class that has images, ascending; images without a label are in none."""
    classes_nk = outcomes.labels.classes
    images_n, slots_n = np.nonzero(classes_nk >= 0)
    label_n = classes_nk[images_n, slots_n]
    length = int(label_n.max(initial=-1)) + 1

    def count(holds: Any) -> Any:
        return np.bincount(label_n[holds[images_n]], minlength=length)

    of, errors = np.bincount(label_n, minlength=length), count(outcomes.errors)
    questions = sorted(outcomes.right, key=lambda question: question.order)
    hits = {question: count(outcomes.right[question]) for question in questions}
    return [
        ClassRow(
            int(label),
            int(of[label]),
            int(errors[label]),
            {question: Proportion(int(hits[question][label]), int(of[label])) for question in hits},
        )
        for label in np.flatnonzero(of)
    ]


def class_names(manifest: Manifest) -> tuple[str, ...]:
    """Names of the classes by number, if the run's weight file is still there and has them."""
    try:
        return read_card(manifest.execution.weights or "").classes
    except WeightsError:
        return ()
