"""What tests of webhooks share: receivers on loopback, certificates, deliveries, and the signature's own check."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import hashlib
import hmac
import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from quell.controller.delivery import Pace
from quell.controller.webhooks import Webhooks
from quell.model.rule import Webhook
from quell.settings import WebhookSettings
from quell.storage import dead_letters, outbox
from quell.storage.records import OutboxItem
from quell.storage.store import Store

SECRET = "whsec_" + base64.b64encode(b"a key of this test, 32 bytes long").decode()
LOOPBACK = WebhookSettings(allow_networks=("127.0.0.1/32", "::1/128"))
QUICK = Pace(timeout=2.0, first_wait=0.02, longest_wait=0.1, attempts=50)


class Request(msgspec.Struct, frozen=True):
    path: str
    headers: dict[str, str]
    body: bytes
    time: float
    #: The other end's port: the same for one connection.
    port: int


class Receiver:
    """An HTTP server that records what it gets and answers from a script, 204 when that has run out."""

    def __init__(self, context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.requests: list[Request] = []
        #: (status, headers, seconds to wait first)
        self.script: deque[tuple[int, dict[str, str], float]] = deque()
        self._connections: list[socket.socket] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.requests.append(Request(self.path, headers, body, time.time(), self.client_address[1]))
                status, answer, delay = receiver.script.popleft() if receiver.script else (204, {}, 0.0)
                time.sleep(delay)
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    for name, value in answer.items():
                        self.send_header(name, value)
                    if status != 204:
                        self.send_header("content-length", "0")
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = False
            block_on_close = False

            def process_request(self, request: Any, client_address: Any) -> None:
                receiver._connections.append(request)
                super().process_request(request, client_address)

            def handle_error(self, *_: object) -> None:
                """A client that goes away is part of the tests."""

        self._server = Server(("127.0.0.1", port), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"{'https' if context else 'http'}://localhost:{self.port}/hook/very-secret-path"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def bodies(self) -> list[str]:
        return [json.loads(request.body)["n"] for request in self.requests]


def endpoint(server: Receiver, **fields: Any) -> Webhook:
    return Webhook(**({"name": "ops", "url": server.url, "allow_http": True, "secret": SECRET} | fields))


def items(count: int, name: str = "ops", start: int = 0) -> list[OutboxItem]:
    return [
        OutboxItem(
            id=f"event{n:03}/webhook/{name}",
            channel=f"webhook:{name}",
            body=json.dumps({"n": n}).encode(),
            created=time.time(),
            event_id=f"event{n:03}",
        )
        for n in range(start, start + count)
    ]


def commit(store: Store, some: Sequence[OutboxItem]) -> Sequence[OutboxItem]:
    store.submit(lambda connection: outbox.insert(connection, some)).result()
    return some


@contextlib.asynccontextmanager
async def running(
    store: Store, *endpoints: Webhook, settings: WebhookSettings = LOOPBACK, pace: Pace = QUICK
) -> AsyncIterator[Webhooks]:
    webhooks = Webhooks(store, {one.name: one for one in endpoints}, settings, time.time, pace=pace)
    webhooks.start()
    try:
        yield webhooks
    finally:
        await webhooks.stop()


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


def settled(store: Store) -> bool:
    return not store.outbox()


def letters(store: Store) -> dict[str, str]:
    return {letter.item.id: letter.explanation for letter in store.read(lambda c: dead_letters.recent(c, 100))}


def verify(request: Request, secret: str = SECRET) -> None:
    """By the convention's own words, sharing no code with what signed."""
    key = base64.b64decode(secret.split("_", 1)[1])
    signed = request.headers["webhook-id"] + "." + request.headers["webhook-timestamp"] + "." + request.body.decode()
    expected = base64.b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest()).decode()
    versions = dict(part.split(",", 1) for part in request.headers["webhook-signature"].split(" "))
    assert hmac.compare_digest(versions["v1"], expected)
    assert abs(int(request.headers["webhook-timestamp"]) - request.time) < 5


def authority(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A CA of this test, and a server's context with a certificate of it for a name."""
    now = dt.datetime.now(dt.UTC)

    def certificate(
        subject: str, public: ec.EllipticCurvePublicKey, issuer: str, key: ec.EllipticCurvePrivateKey, *, ca: bool
    ) -> x509.Certificate:
        identifier = x509.SubjectKeyIdentifier.from_public_key(public)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(identifier, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        if ca:
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        else:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
        return builder.sign(key, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_file = folder / f"ca-{name}.pem"
    ca = certificate("test authority", ca_key.public_key(), "test authority", ca_key, ca=True)
    ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    own = certificate(name, key.public_key(), "test authority", ca_key, ca=False)
    chain = folder / f"server-{name}.pem"
    chain.write_bytes(
        own.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return ca_file, context


class Program:
    """receiver_process.py or proxy_process.py, running."""

    def __init__(self, script: str, log: Path, *words: str) -> None:
        self.log = log
        command = [sys.executable, str(Path(__file__).with_name(script)), str(log), *words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def lines(self) -> list[dict[str, Any]]:
        """What it noted so far."""
        if not self.log.exists():
            return []
        # The last line may be half written.
        return [json.loads(line) for line in self.log.read_text().split("\n")[:-1]]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
