"""Settings of certification."""

import math
from dataclasses import dataclass

from cyclopts import Parameter

from models.views.threats import Threat
from pipeline.config.errors import ConfigError, at_least
from pipeline.config.flags import Advanced

# A key of pipeline.certificates.RULES, which alone knows them all.
RuleName = str


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ClaimsConfig:
    """Settings of certification: the claims, and the tracking server.

    Attributes:
        patch: What the attacker may do: sides of square patches in pixels, or 2% (a square of that
            share of the image), 16x48 (height x width), area:1024 (any rectangle of at most so many
            pixels), 2of32 (two squares); source:50, source:40x60 or source:2% of the picture as it
            is delivered, before the resize [23 32 39, or 2 4 5 on the CIFAR-10 grid].
        rule: Certificates to compute: exact, uniform, two-location, one-location, double-masking or
            randomized [exact and uniform; of masks two-location and one-location; of a
            --randomized run randomized].
        assume: The largest patch that a decision may assume (rules two-location and one-location),
            in the notation of --patch [each patch itself].
        tau: Also ask rule one-location with views that speak only above a gap of their two largest
            logits, for each of these gaps: it answers more images and certifies fewer (--gaps).
        top_k: Places: 1 certifies that the prediction stays, k that a right class stays among the
            k with most votes.
        detect: Also compute what an alert at near ties detects, for every threshold.
        confidence: Confidence, for each image, of the randomized certificate.
        mlflow: Tracking server; default: an sqlite file in --out; none logs nothing.
        experiment: MLflow experiment.
    """

    patch: tuple[int | str, ...] | None = None
    rule: tuple[RuleName, ...] | None = None
    assume: Advanced[str | None] = None
    tau: Advanced[tuple[float, ...] | None] = None
    top_k: Advanced[tuple[int, ...]] = (1,)
    detect: Advanced[bool] = False
    confidence: Advanced[float] = 0.999
    mlflow: str | None = None
    experiment: Advanced[str] = "patchcert"

    def __post_init__(self) -> None:
        if self.patch is not None and not self.patch:
            raise ConfigError("--patch is empty: give one or more sides in pixels")
        _ = self.threats, self.assumed  # fails where a text means nothing
        if not self.top_k:
            raise ConfigError("--top-k is empty: give one or more numbers of places")
        for places in self.top_k:
            at_least(1, top_k=places)
        if self.tau is not None and not all(0 <= tau < math.inf for tau in self.tau):
            raise ConfigError("--tau: give gaps of logits, from 0 on")
        if self.rule is not None and not self.rule:
            raise ConfigError("--rule is empty: name one or more, such as exact")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"--confidence {self.confidence}: it must lie between 0 and 1")

    @property
    def threats(self) -> tuple[Threat, ...] | None:
        """Threats that ``patch`` names; None where it was left out.

        Raises:
            ConfigError: A text means nothing.
        """
        try:
            return None if self.patch is None else tuple(map(Threat.parse, self.patch))
        except ValueError as error:
            raise ConfigError(f"--{error}") from error

    @property
    def assumed(self) -> Threat | None:
        """The threat that ``assume`` names; None where it was left out.

        Raises:
            ConfigError: The text means nothing.
        """
        try:
            return None if self.assume is None else Threat.parse(self.assume)
        except ValueError as error:
            raise ConfigError(f"--assume: {error}") from error
