"""Where the controller is, and that it is the one meant: addresses and TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from quell.agent.enrol import Address, UnreachableError, enrol, enrolled
from quell.channel.keys import public_text
from quell.errors import LinkError

CONTROLLER_KEY = Ed25519PrivateKey.generate().public_key()


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("http://127.0.0.1:7341", "ws://127.0.0.1:7341/v1/agents/link"),
        ("http://localhost", "ws://localhost:80/v1/agents/link"),
        ("http://[::1]:9/", "ws://[::1]:9/v1/agents/link"),
        ("https://quell.example/behind/", "wss://quell.example:443/behind/v1/agents/link"),
    ],
)
def test_addresses(url: str, link: str) -> None:
    assert Address.parse(url).link == link


@pytest.mark.parametrize("url", ["", "quell.example", "ftp://127.0.0.1", "http://", "http://127.0.0.1:port", "ws://h"])
def test_no_addresses(url: str) -> None:
    with pytest.raises(LinkError):
        Address.parse(url)


def test_plain_http_elsewhere_must_be_meant() -> None:
    for url in ("http://192.0.2.1", "http://localhost.example", "http://127.0.0.1.example"):
        with pytest.raises(LinkError, match="--insecure"):
            Address.parse(url)
        assert not Address.parse(url, insecure=True).tls


def test_over_tls_only_with_whom_is_trusted(tmp_path: Path) -> None:
    with joining_over_tls(tmp_path) as (url, ca_file):
        with pytest.raises(LinkError, match="not trusted") as refused:
            enrol(tmp_path / "a", Address.parse(url), token="t", node="n", machine_id="m")
        assert not isinstance(refused.value, UnreachableError)
        assert enrolled(tmp_path / "a") is None
        address = Address.parse(url, ca_file=str(ca_file))
        identity = enrol(tmp_path / "a", address, token="t", node="n", machine_id="m")
        assert (identity.agent, identity.node, identity.controller_key) == ("agent-9", "n", CONTROLLER_KEY)
        again = enrolled(tmp_path / "a")
        assert again is not None
        assert (again.agent, again.node, again.controller_key) == ("agent-9", "n", CONTROLLER_KEY)
        assert again.key.private_bytes_raw() == identity.key.private_bytes_raw()


def test_nobody_there_is_worth_another_try(tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
        port = free.server_port
    (tmp_path / "a").mkdir()
    with pytest.raises(UnreachableError):
        enrol(tmp_path / "a", Address.parse(f"http://127.0.0.1:{port}"), token="t", node="n", machine_id="m")


def test_a_damaged_identity_is_told(tmp_path: Path) -> None:
    (tmp_path / "agent.json").write_text("{")
    with pytest.raises(LinkError, match="damaged"):
        enrolled(tmp_path)


def test_a_ca_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="CA file"):
        Address.parse("https://quell.example", ca_file=str(tmp_path / "none")).context()


class _Joins(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        text = json.dumps({"agent": "agent-9", "controller_key": public_text(CONTROLLER_KEY)}).encode()
        self.send_response(201)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


class _Server(HTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that breaks off the handshake is part of the test."""


@contextmanager
def joining_over_tls(folder: Path) -> Iterator[tuple[str, Path]]:
    (folder / "a").mkdir()
    certificate = self_signed(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, folder / "tls.key")
    with _Server(("127.0.0.1", 0), _Joins) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}", certificate
        finally:
            server.shutdown()
            thread.join()


def self_signed(folder: Path) -> Path:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "controller")])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(address, critical=False)
        .sign(key, None)
    )
    (folder / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path = folder / "tls.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return path
