"""``--patch`` of the commands that ask about stored runs, in words as of ``patchcert certify``."""

from models.views.threats import Threat
from pipeline.config import ClaimsConfig


class AsksPatches:
    """A config with a field ``patch``, whose texts are checked when it is made.

    Attributes:
        patch: Sides in pixels and texts; None where the flag was left out.

    Raises:
        ConfigError: A text means nothing.
    """

    patch: tuple[int | str, ...] | None

    def __post_init__(self) -> None:
        ClaimsConfig(patch=self.patch)  # fails where a text means nothing

    @property
    def threats(self) -> tuple[Threat, ...] | None:
        """The threats of the flag; None where it was left out."""
        return ClaimsConfig(patch=self.patch).threats
