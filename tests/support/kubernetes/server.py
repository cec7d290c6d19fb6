"""The stand-in for the Kubernetes API as a server on loopback, with TLS or without, in threads of this process."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from msgspec import Struct
from tests.support.kubernetes.cluster import Cluster, User
from tests.support.kubernetes.rest import Answer, Request, Rest
from tests.support.kubernetes.statuses import Failure


class Call(Struct, frozen=True):
    """A request that came, for tests to look at."""

    target: str
    authorization: str
    #: On the monotonic clock.
    at: float
    method: str = "GET"
    body: bytes = b""


class StandIn:
    """One API server over one cluster; it can be stopped and started again on its port, and made to fail.

    tls: the server's certificates; a client's own certificate, if it shows one, names its user.
    """

    def __init__(self, cluster: Cluster, *, tls: ssl.SSLContext | None = None, bookmark_seconds: float = 60.0) -> None:
        self.cluster = cluster
        self.rest = Rest(cluster, bookmark_seconds=bookmark_seconds)
        self.calls: list[Call] = []
        #: Answers in place of the next ones.
        self.failing: list[Failure] = []
        #: What their paths have in them: a watch that begins anew is else taken for the one that is meant.
        self.failing_of = ""
        #: Methods whose next request is done, and its answer lost with the connection.
        self.losing: list[str] = []
        #: Requests with these words find that the cluster has forgotten what was before them, once each.
        self._forgetting: list[str] = []
        #: Users by the common name of their certificate.
        self.certified: dict[str, User] = {}
        self.tls = tls
        self.port = 0
        #: Bytes of a watch that are sent at once, wherever a line ends; 0: all that is there.
        self.piece = 0
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self.port), self)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """As a server that is killed: watches are cut in the middle."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.cut()

    def cut(self) -> None:
        """Every connection breaks; new ones are taken."""
        if self._server is not None:
            self._server.cut()

    def forget_before(self, part: str) -> None:
        """All versions and pages expire right before the next request whose path and query contain this."""
        self._forgetting.append(part)

    def came(self, call: Call) -> None:
        self.calls.append(call)
        for part in [part for part in self._forgetting if part in call.target]:
            self._forgetting.remove(part)
            self.cluster.compact()

    def targets(self, part: str) -> list[str]:
        """Path and query of the requests so far that contain this."""
        return [call.target for call in list(self.calls) if part in call.target]


@contextlib.contextmanager
def serving(standin: StandIn) -> Iterator[StandIn]:
    standin.start()
    try:
        yield standin
    finally:
        standin.stop()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], standin: StandIn) -> None:
        super().__init__(address, _Handler)
        self.standin = standin
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        # Here and not in its thread, so that a connection just taken is cut too.
        self.opened(request)
        super().process_request(request, client_address)

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def cut(self) -> None:
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or does not trust the certificate, is no fault of the stand-in."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are sent apart, and the second would wait for the first to be acknowledged.
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        self._raw = raw = self.request
        if self.server.standin.tls is not None:
            # Not in the accepting thread, which a silent client would hold up.
            raw.settimeout(10)
            self.request = self.server.standin.tls.wrap_socket(raw, server_side=True)
            self.server.opened(self.request)
        super().setup()

    def finish(self) -> None:
        super().finish()
        self.server.closed(self._raw)
        self.server.closed(self.request)
        if self.request is not self._raw:
            self.request.close()

    def handle_request(self) -> None:
        standin = self.server.standin
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        standin.came(Call(self.path, headers.get("authorization", ""), time.monotonic(), self.command, body))
        if standin.failing and standin.failing_of in self.path:
            failure = standin.failing.pop(0)
            return self._send(Answer(failure.code, failure.body))
        answer = standin.rest.answer(Request(self.command, self.path, headers, self._certified(), body))
        if self.command in standin.losing:
            standin.losing.remove(self.command)
            self.close_connection = True
            return None
        return self._send(answer)

    # The library finds a method by the verb.
    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request  # noqa: N815

    def _certified(self) -> User | None:
        shown = self.request.getpeercert() if isinstance(self.request, ssl.SSLSocket) else None
        names = [value for part in (shown or {}).get("subject", ()) for key, value in part if key == "commonName"]
        return self.server.standin.certified.get(names[0]) if names else None

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status, HTTPStatus(answer.status).phrase)
        self.send_header("Content-Type", "application/json")
        if answer.stream is not None:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            ready = b""
            for one in answer.stream:
                if one is not None:
                    ready += json.dumps(one, separators=(",", ":")).encode() + b"\n"
                    continue
                self._chunks(ready)
                ready = b""
            self._chunks(ready)
            self.wfile.write(b"0\r\n\r\n")
            return
        body = json.dumps(answer.body, separators=(",", ":")).encode()
        self.send_header("Content-Length", str(len(body)))
        if answer.status == 429:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def _chunks(self, data: bytes) -> None:
        piece = self.server.standin.piece or max(1, len(data))
        for start in range(0, len(data), piece):
            part = data[start : start + piece]
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parameter's name in the library
        pass
