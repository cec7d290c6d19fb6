"""A webhook receiver of our own: takes what Quell sends and checks its signature as any receiver would.

Standard Webhooks, version 1: HMAC-SHA256 over "<webhook-id>.<webhook-timestamp>.<body>" with the shared secret.
"""

from __future__ import annotations

import base64
import hmac
import json
import queue
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from msgspec import Struct


class Received(Struct, frozen=True, kw_only=True):
    """One message. at: epoch seconds."""

    at: float
    id: str
    verified: bool
    body: dict[str, Any]


class Listener:
    """Serves on a free port of the loopback for as long as the block lasts."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._received: queue.Queue[Received] = queue.Queue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/"

    @property
    def secret(self) -> str:
        return "whsec_" + base64.b64encode(self._key).decode()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, event_id: str, timeout: float) -> Received | None:
        """The message that tells of this event; None if none comes within timeout seconds."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            try:
                received = self._received.get(timeout=left)
            except queue.Empty:
                break
            if received.id.startswith(f"{event_id}/"):
                return received
        return None

    def verify(self, headers: dict[str, str], body: bytes) -> bool:
        """Whether the message is from somebody who knows the secret."""
        signed = f"{headers.get('webhook-id', '')}.{headers.get('webhook-timestamp', '')}.".encode() + body
        wanted = "v1," + base64.b64encode(hmac.digest(self._key, signed, "sha256")).decode()
        return any(hmac.compare_digest(wanted, given) for given in headers.get("webhook-signature", "").split())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                at = time.time()
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                verified = listener.verify(headers, body)
                self.send_response(204 if verified else 401)
                self.end_headers()
                listener._received.put(
                    Received(at=at, id=headers.get("webhook-id", ""), verified=verified, body=json.loads(body))
                )

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the library's name
                """Keep standard error for what matters."""

        return Handler
