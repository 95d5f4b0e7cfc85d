"""An HTTP proxy in front of the S3 server that throttles, fails or drops requests on demand."""

import http.client
import random
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_SLOW_DOWN = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"""


class FaultyProxy:
    """Passes requests on, signatures and all, unless told otherwise.

    Attributes:
        failing: Share of requests answered with 503, drawn with a fixed seed.
        on_put: Called with the path after each PUT that was passed on.
        refused: How many requests were answered with 503 or dropped.
    """

    def __init__(self, upstream: str, port: int) -> None:
        self.upstream = urlsplit(upstream)
        self.failing = 0.0
        self.on_put: Callable[[str], None] | None = None
        self.refused = 0
        self._random, self._lock = random.Random(0), threading.Lock()
        self.endpoint = f"http://127.0.0.1:{port}"
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __getattr__(self, name: str) -> Callable[[], None]:
                if name.startswith("do_"):
                    return lambda: proxy.handle(self)
                raise AttributeError(name)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = self._body(request)
        with self._lock:
            failing = self._random.random() < self.failing
            self.refused += failing
        if failing:
            self._answer(request, 503, [("Content-Type", "application/xml")], _SLOW_DOWN)
            return
        connection = http.client.HTTPConnection(self.upstream.hostname, self.upstream.port)
        try:
            headers = dict(request.headers.items())
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            with self._lock:
                self.refused += 1
            request.close_connection = True  # as if nobody were there
            return
        finally:
            connection.close()
        self._answer(request, answer.status, answer.getheaders(), data)
        if request.command == "PUT" and self.on_put is not None:
            self.on_put(request.path)

    @staticmethod
    def _body(request: BaseHTTPRequestHandler) -> bytes:
        if "chunked" in request.headers.get("Transfer-Encoding", ""):
            raise NotImplementedError("chunked uploads do not pass through this proxy")
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))

    @staticmethod
    def _answer(
        request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], data: bytes
    ) -> None:
        request.send_response_only(status)
        dropped = {"transfer-encoding", "connection"}
        if request.command != "HEAD":
            dropped.add("content-length")
        for name, value in headers:
            if name.lower() not in dropped:
                request.send_header(name, value)
        if request.command != "HEAD":
            request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)
