"""Checks of where data come from and results go to."""

import os
import re
import uuid
from collections.abc import Iterable

from pipeline import storage
from pipeline.preflight.findings import CheckError
from pipeline.storage.addresses import redact

# A first contact need not be patient: nothing has been computed that could be lost.
FIRST_CONTACT_SECONDS = 10.0


def reach_stores(paths: Iterable[str]) -> str:
    """Ask each bucket among ``paths`` once, so that a wrong address or secret shows at once.

    Raises:
        OSError: One does not answer, or refuses.
    """
    remote = [path for path in paths if path.startswith(storage.S3)]
    if not remote:
        return "all paths are local"
    from pipeline.storage.s3 import patience  # noqa: PLC0415  (local paths need none of it)

    with patience(FIRST_CONTACT_SECONDS):
        for path in remote:
            _ask(path)
    buckets = {path.removeprefix(storage.S3).split("/")[0] for path in remote}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    where = f" at {redact(endpoint)}" if endpoint else ""
    return f"{', '.join(sorted(buckets))}{where} answer and accept the credentials"


def _ask(path: str) -> None:
    """List one key of the prefix that the path lies under, which rights may be tied to."""
    fs, inner = storage.filesystem(path)
    bucket, _, key = inner.partition("/")
    prefix = re.split(r"[*?\[{]", key)[0]
    try:
        fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except FileNotFoundError as error:
        raise CheckError(
            f"s3://{bucket}: no such bucket; create it, or correct the path"
        ) from error


def probe_output(out: str) -> str:
    """Create, read and remove a small file where results will go.

    Raises:
        CheckError, OSError: One of these fails.
    """
    path = storage.join(out, f".patchcert-probe-{uuid.uuid4().hex}")
    data = uuid.uuid4().bytes
    storage.create(path, data)  # as runs are begun, which asks the most of a file system
    try:
        if storage.read_bytes(path) != data:
            raise CheckError(f"{out} gives back other bytes than were written; use another store")
    finally:
        storage.remove(path)
    return f"{storage.full_path(out)} can be written, read and cleaned"
