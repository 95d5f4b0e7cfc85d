"""Which exit code a failure has; what is not listed is a bug and keeps its traceback."""

import importlib
import sys

# Module and class names rather than classes: an error can only have come from a module that was
# imported, and importing them all here would make usage errors slow.
_REQUEST = (
    ("pipeline.config", "ConfigError"),
    ("pipeline.patterns", "PathError"),
    ("pipeline.sources.base", "SourceError"),
    ("models.weights", "WeightsError"),
    ("models.zoo", "UnknownModelError"),
    ("models.vit", "UnsupportedModelError"),
)
_JOB = (
    ("pipeline.manifest", "ManifestError"),
    ("pipeline.store", "StoreError"),
    ("pipeline.failures", "JobError"),
    ("pipeline.tracking", "TrackingError"),
    ("pipeline.attack.rerun", "RoundTripError"),
    ("pipeline.preflight.findings", "CheckError"),
    ("pipeline.preflight.findings", "PreflightError"),
    ("jobs.submit", "SubmitError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("builtins", "OSError"),
)


def exit_code_of(error: Exception) -> int | None:
    """2 where the request was wrong, 1 where the job failed, None for a bug of ours."""
    for code, kinds in ((2, _REQUEST), (1, _JOB)):
        for module, name in kinds:
            if module in sys.modules:
                kind = getattr(importlib.import_module(module), name)
                if isinstance(error, kind):
                    return code
    return None
