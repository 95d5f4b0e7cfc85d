"""Requests that listing costs on S3, counted by a server of one bucket."""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from pipeline.sources.base import SourceOptions
from pipeline.sources.listing import list_images
from pipeline.sources.listing_cache import ListingCache
from pipeline.storage.s3 import ANONYMOUS, PatientS3FileSystem

NO = SourceOptions()


@pytest.fixture
def bucket(monkeypatch):
    """Objects of ``s3://open`` by key, and the requests (method, key) that were made."""
    objects: dict[str, bytes] = {}
    asked: list[tuple[str, str]] = []

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, *, with_body):
            parts = urlsplit(self.path)
            key = unquote(parts.path).removeprefix("/open").strip("/")
            asked.append((self.command, key))
            status, body, headers = 200, objects.get(key), {}
            if not key:
                prefix = parse_qs(parts.query).get("prefix", [""])[0]
                body = listing_of({k: v for k, v in objects.items() if k.startswith(prefix)})
            elif body is None:
                status, body = 404, b""
            else:
                headers = {"ETag": f'"{hash(body)}"', "Content-Length": str(len(body))}
                if "Range" in self.headers:
                    first, last = self.headers["Range"].removeprefix("bytes=").split("-")
                    status, body = 206, body[int(first) : int(last) + 1]
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                length = str(len(body)) if name == "Content-Length" and with_body else value
                self.send_header(name, length)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(ANONYMOUS, "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    PatientS3FileSystem.clear_instance_cache()
    yield objects, asked
    PatientS3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


def listing_of(objects):
    entries = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{hash(data)}&quot;</ETag><Size>{len(data)}</Size></Contents>"
        for key, data in objects.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>open</Name>'
        f"<KeyCount>{len(objects)}</KeyCount><IsTruncated>false</IsTruncated>{entries}"
        "</ListBucketResult>"
    ).encode()


@pytest.mark.parametrize(
    ("data", "heads"),
    [("s3://open/d", 0), ("s3://open/d/*.tar", 0), ("s3://open/d/{0..2}.tar", 1)],
)
def test_each_file_is_asked_for_once(bucket, tar_bytes, encode, data, heads):
    objects, asked = bucket
    for number in range(3):
        members = [("a.png", encode(number)), ("a.cls", b"1"), ("b.png", encode(7))]
        objects[f"d/{number}.tar"] = tar_bytes(members)
    memory = ListingCache()
    first = list_images(data, NO, 10, memory)
    assert first.table["image_id"].to_pylist() == [f"{n}/{key}" for n in range(3) for key in "ab"]
    shards = [(method, key) for method, key in asked if key in objects]
    assert Counter(shards) == Counter(
        {("HEAD", key): heads for key in objects if heads} | {("GET", key): 1 for key in objects}
    )
    asked.clear()
    # What is remembered is looked up and not opened.
    assert list_images(data, NO, 10, ListingCache(known=memory.found)) == first
    assert Counter(method for method, key in asked if key in objects)["GET"] == 0
    assert len([key for _, key in asked if key in objects]) == 3 * heads
