"""The app that commands are registered with, and groups of options that several of them share."""

from typing import Annotated

from cyclopts import App, Parameter

from pipeline.config import (
    ClaimsConfig,
    EstimateConfig,
    OutputConfig,
    VotesConfig,
)

What = Annotated[VotesConfig, Parameter(name="*", group="What votes")]
Claims = Annotated[ClaimsConfig, Parameter(name="*", group="What is certified")]
Estimate = Annotated[EstimateConfig, Parameter(name="*", group="Before it")]
Output = Annotated[OutputConfig, Parameter(name="*", group="Output")]


def _version() -> str:
    from pipeline.revision import program_version  # noqa: PLC0415

    return program_version()


def _default(value: object) -> str | None:
    """What --help says of a default; what is None or off is explained by the option's own text."""
    if value is None or value is False or value == ():
        return None
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in values)


app = App(
    name="patchcert",
    help="Certified accuracy of image classifiers against adversarial patches.\n\n"
    "Every command also takes --config FILE.yaml, with the flags below as keys; flags win.",
    help_format="plaintext",
    version=_version,
    version_flags=["--version"],
    default_parameter=Parameter(negative=(), consume_multiple=True, show_default=_default),
    result_action="return_value",
)
