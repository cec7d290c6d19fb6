"""How an agent becomes known: it shows a join token once, gets an id, and pins the controller's key.

DESIGN, trust: an agent enrols with a short-lived join token and gets its own key; it pins the controller's command key.
The private key never leaves the machine.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

from quell.channel.envelope import successor
from quell.channel.keys import load_or_create_key, public_key, public_text, save_private
from quell.channel.messages import JOIN_PATH, LINK_PATH, Joined, JoinRequest
from quell.errors import LinkError

_TIMEOUT_SECONDS = 10.0
#: In the state folder: whom to trust for https.
_AUTHORITY = "ca.pem"
_LONGEST_ANSWER = 64 << 10


class UnreachableError(LinkError):
    """The controller did not answer, or could not just now: trying again can help."""


class Address(Struct, frozen=True, kw_only=True):
    """Where the controller is."""

    host: str
    port: int
    path: str
    tls: bool
    ca_file: str | None = None

    @classmethod
    def parse(cls, url: str, *, ca_file: str | None = None, insecure: bool = False) -> Address:
        """Raises LinkError; also for plain http to another machine, unless insecure says that it is meant."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise LinkError(f"expected http://host:port or https://host:port, got {url!r}")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise LinkError(f"{url!r}: {error}") from error
        if parts.scheme == "http" and not insecure and not _is_loopback(parts.hostname):
            raise LinkError(f"{url} would send the join token in the clear: use https, or --insecure if that is meant")
        return cls(
            host=parts.hostname, port=port, path=parts.path.rstrip("/"), tls=parts.scheme == "https", ca_file=ca_file
        )

    @property
    def link(self) -> str:
        """The WebSocket's URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.tls else 'ws'}://{host}:{self.port}{self.path}{LINK_PATH}"

    def trusting(self, state: Path) -> Address:
        """With the authority that was learned when the agent joined, unless another is given."""
        file = state / _AUTHORITY
        if not self.tls or self.ca_file is not None or not file.exists():
            return self
        return msgspec.structs.replace(self, ca_file=str(file))

    def context(self) -> ssl.SSLContext | None:
        """Raises LinkError for a CA file that is none."""
        if not self.tls:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise LinkError(f"CA file {self.ca_file}: {error}") from error


class Identity(Struct, frozen=True, kw_only=True):
    """Who this agent is, and whom it obeys."""

    agent: str
    #: The node it enrolled as; the controller accepts no other from it.
    node: str
    key: Ed25519PrivateKey
    controller_key: Ed25519PublicKey

    def obeying(self, state: Path, statements: tuple[bytes, ...]) -> Identity:
        """With the controller's key after these statements, kept in the state folder; itself where that is no other.

        Raises LinkError for a statement that is not signed with the pinned key, OSError.
        """
        followed = successor(statements, self.controller_key)
        if followed == self.controller_key:
            return self
        save_private(state / "controller.pub", f"{public_text(followed)}\n".encode())
        return msgspec.structs.replace(self, controller_key=followed)


class _Enrolled(Struct, frozen=True, kw_only=True):
    """agent.json; written last, so that its presence says that the rest is there."""

    agent: str
    node: str


def enrolled(state: Path) -> Identity | None:
    """The identity in a state directory, if it has one. Raises LinkError for a damaged one."""
    try:
        known = msgspec.json.decode((state / "agent.json").read_bytes(), type=_Enrolled)
        controller_key = public_key((state / "controller.pub").read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LinkError(f"{state / 'agent.json'} is damaged: {error}") from error
    key = load_or_create_key(state / "key")
    return Identity(agent=known.agent, node=known.node, key=key, controller_key=controller_key)


def enrol(state: Path, address: Address, *, token: str, node: str, machine_id: str) -> Identity:
    """Join, and keep what the controller answers. Blocks for seconds at most.

    Raises UnreachableError if trying again can help, LinkError if not.
    """
    token, _, wanted = token.partition(".")
    address = address.trusting(state)
    if address.tls and wanted and address.ca_file is None:
        address = _learn_authority(state, address, wanted)
    key = load_or_create_key(state / "key")
    request = JoinRequest(
        token=token, name=node, public_key=public_text(key.public_key()), node=node, machine_id=machine_id
    )
    joined = _post(address, request)
    controller_key = public_key(joined.controller_key)
    save_private(state / "controller.pub", f"{joined.controller_key.strip()}\n".encode())
    save_private(state / "agent.json", msgspec.json.encode(_Enrolled(agent=joined.agent, node=node)) + b"\n")
    return Identity(agent=joined.agent, node=node, key=key, controller_key=controller_key)


def _learn_authority(state: Path, address: Address, wanted: str) -> Address:
    """Fetch the controller's authority, unproved, and trust it if it is the one that the join token names."""
    unproved = ssl.create_default_context()
    unproved.check_hostname = False
    unproved.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(address.host, address.port, timeout=_TIMEOUT_SECONDS, context=unproved)
    try:
        connection.request("GET", f"{address.path}/v1/ca.pem")
        response = connection.getresponse()
        pem = response.read(_LONGEST_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"no answer from {address.host}:{address.port}: {error}") from error
    finally:
        connection.close()
    try:
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))).hexdigest()
    except ValueError as error:
        raise LinkError(f"{address.host} answered {response.status} instead of its certificate authority") from error
    if not hmac.compare_digest(found, wanted):
        raise LinkError(
            f"the authority of {address.host} is not the one of the join token: another machine answers, or the token is "
            "of another controller"
        )
    save_private(state / _AUTHORITY, pem)
    return address.trusting(state)


def _post(address: Address, request: JoinRequest) -> Joined:
    context = address.context()
    connection = (
        http.client.HTTPSConnection(address.host, address.port, timeout=_TIMEOUT_SECONDS, context=context)
        if context
        else http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT_SECONDS)
    )
    try:
        connection.request(
            "POST", address.path + JOIN_PATH, msgspec.json.encode(request), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        body = response.read(_LONGEST_ANSWER)
    except ssl.SSLCertVerificationError as error:
        raise LinkError(f"the controller's certificate is not trusted: {error.verify_message}") from error
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"no answer from {address.host}:{address.port}: {error}") from error
    finally:
        connection.close()
    if response.status >= 500 or response.status == 429:
        raise UnreachableError(f"the controller answered {response.status}: {_detail(body)}")
    if response.status != 201:
        raise LinkError(f"the controller refused the join token ({response.status}): {_detail(body)}")
    try:
        return msgspec.json.decode(body, type=Joined)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LinkError(f"not an answer of a controller: {error}") from error


class _ProblemDetail(Struct):
    """RFC 9457."""

    title: str = ""
    detail: str = ""


def _detail(body: bytes) -> str:
    try:
        problem = msgspec.json.decode(body, type=_ProblemDetail)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body[:200].decode("utf-8", "replace")
    return problem.detail or problem.title


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
