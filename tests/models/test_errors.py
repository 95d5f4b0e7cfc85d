"""The exit code of every error."""

import subprocess
import sys

import pytest
from botocore.exceptions import EndpointConnectionError
from pipeline.attack.source import RoundTripError

from jobs.submit import SubmitError
from models.errors import exit_code_of
from models.pixels import UnsupportedModelError
from models.preprocess import WrongSizeError
from models.weights import WeightsError
from models.zoo import UnknownModelError
from pipeline.config import ConfigError
from pipeline.decode import UndecodableError
from pipeline.failures import JobError, StalledError, WorkersDiedError
from pipeline.faulty import ErrorRateError
from pipeline.lease import LeaseError
from pipeline.manifest import ManifestError
from pipeline.patterns import PathError
from pipeline.preflight.findings import CheckError, PreflightError
from pipeline.questions.audit import AuditError
from pipeline.questions.sql import QueryError
from pipeline.sources.base import SourceError
from pipeline.store import StoreError
from pipeline.tracking import TrackingError
from pipeline.voting import WorkerError

REQUEST = (ConfigError, PathError, SourceError, WeightsError, UnknownModelError)
REQUEST += (UnsupportedModelError, QueryError)
JOB = (ManifestError, StoreError, ErrorRateError, LeaseError, JobError, WorkersDiedError)
JOB += (StalledError, TrackingError, RoundTripError, CheckError, PreflightError, SubmitError)
BUG = (WrongSizeError, UndecodableError, AuditError, WorkerError, ValueError, RuntimeError)


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
