"""The settings of every command: frozen, self-validating, the source of every flag and YAML key.

The command line and the YAML file are derived from these classes by cyclopts; nothing is
mirrored by hand. None of this imports torch, ray or mlflow. A field that is None is filled in by
``pipeline.runs.resolve`` from the weight file's header, the preset, or the paper's settings.
"""

from pipeline.config.claims import ClaimsConfig, RuleName
from pipeline.config.errors import ConfigError, at_least
from pipeline.config.output import EstimateConfig, OutputConfig
from pipeline.config.votes import (
    MICROBATCH_STEP,
    Device,
    Dtype,
    VotesConfig,
    lengths_of,
)

__all__ = [
    "MICROBATCH_STEP",
    "ClaimsConfig",
    "ConfigError",
    "Device",
    "Dtype",
    "EstimateConfig",
    "OutputConfig",
    "RuleName",
    "VotesConfig",
    "at_least",
    "lengths_of",
]
