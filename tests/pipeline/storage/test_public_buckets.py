"""Buckets that anyone may read, asked without credentials, by a server that sees the requests."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipeline import storage
from pipeline.storage.s3 import ANONYMOUS, PatientS3FileSystem

_LISTING = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>open</Name><Prefix>d/</Prefix>
<KeyCount>1</KeyCount><IsTruncated>false</IsTruncated><Contents><Key>d/a.tar</Key>
<LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>"e"</ETag><Size>3</Size></Contents>
</ListBucketResult>"""


@pytest.fixture
def signed(monkeypatch, tmp_path):
    """Signatures of the requests to a server of one public bucket; nobody has credentials."""
    found = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            found.append("Authorization" in self.headers)
            self.send_response(200)
            self.send_header("Content-Length", str(len(_LISTING)))
            self.end_headers()
            self.wfile.write(_LISTING)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", ANONYMOUS):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    PatientS3FileSystem.clear_instance_cache()
    yield found
    PatientS3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


def test_the_message_names_a_variable_that_opens_them(signed, monkeypatch):
    with pytest.raises(PermissionError, match=f"no credentials are found.*{ANONYMOUS}=1"):
        storage.list_files("s3://open/d")
    assert signed == []
    monkeypatch.setenv(ANONYMOUS, "1")
    assert storage.list_files("s3://open/d") == ["s3://open/d/a.tar"]
    assert signed
    assert not any(signed)
