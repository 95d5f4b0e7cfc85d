"""The exit code of every error."""

import subprocess
import sys

import pytest
from botocore.exceptions import EndpointConnectionError

from jobs.submit import SubmitError
from models.errors import (
    UnknownModelError,
    UnsupportedModelError,
    WeightsError,
    WrongSizeError,
    exit_code_of,
)
from pipeline.analysis.audit import AuditError
from pipeline.analysis.sql import QueryError
from pipeline.attack.rerun import RoundTripError
from pipeline.cluster.errors import JobError, StalledError, WorkersDiedError
from pipeline.config import ConfigError
from pipeline.preflight.findings import CheckError, PreflightError
from pipeline.runs.error_images import ErrorRateError
from pipeline.runs.lease import LeaseError
from pipeline.runs.manifest import ManifestError
from pipeline.runs.store import StoreError
from pipeline.sources.base import SourceError
from pipeline.sources.decode import UndecodableError
from pipeline.storage.patterns import PathError
from pipeline.tracking import TrackingError
from pipeline.voting.vote import WorkerError

REQUEST = (ConfigError, PathError, SourceError, WeightsError, UnknownModelError)
REQUEST += (UnsupportedModelError, QueryError)
JOB = (ManifestError, StoreError, ErrorRateError, LeaseError, JobError, WorkersDiedError)
JOB += (StalledError, TrackingError, RoundTripError, CheckError, PreflightError, SubmitError)
JOB += (WorkerError, MemoryError)
BUG = (WrongSizeError, UndecodableError, AuditError, ValueError, RuntimeError)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        *((kind, 2) for kind in REQUEST),
        *((kind, 1) for kind in (*JOB, OSError, FileNotFoundError)),
        *((kind, None) for kind in BUG),
    ],
)
def test_every_error_has_its_exit_code(kind, code):
    assert exit_code_of(kind("said")) == code


def test_a_store_that_cannot_be_reached_fails_the_job():
    assert exit_code_of(EndpointConnectionError(endpoint_url="http://x")) == 1


def test_the_bases_need_no_other_module():
    code = (
        "import sys\nfrom models.errors import exit_code_of\n"
        "assert exit_code_of(OSError()) == 1 and exit_code_of(KeyError()) is None\n"
        "assert 'botocore' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
