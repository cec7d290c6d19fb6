"""Webhooks to receivers that break the rules: what each does to a delivery, and that it does nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from webhook_parts import QUICK, Program, Receiver, authority, commit, endpoint, items, letters, running, settled, until

from quell.controller.connections import Proxy
from quell.controller.receivers import Answer, Verdict
from quell.controller.receivers import Receiver as Sender
from quell.model.rule import Webhook
from quell.settings import WebhookSettings
from quell.storage.store import Store

#: Seconds an attempt may take in these tests.
PATIENCE = 1.0


class Rude:
    """Accepts connections, reads a request and lets `manners` do what they like with the socket."""

    def __init__(self, manners: Callable[[socket.socket], None], *, read: bool = True) -> None:
        self._manners = manners
        self._read = read
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/hook"
        self.connections = 0
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(10)
            if self._read:
                take(connection)
            self._manners(connection)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(15)


def take(connection: socket.socket) -> None:
    """One request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536)
    head, _, rest = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(rest) < length:
        rest += connection.recv(65_536)


def until_gone(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(65_536):
            pass


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def says(text: bytes, *, stay: bool = False) -> Callable[[socket.socket], None]:
    def manners(connection: socket.socket) -> None:
        connection.sendall(text)
        if stay:
            until_gone(connection)

    return manners


def endless(opening: bytes, chunk: bytes, pause: float = 0.0) -> Callable[[socket.socket], None]:
    def manners(connection: socket.socket) -> None:
        connection.sendall(opening)
        while True:
            connection.sendall(chunk)
            time.sleep(pause)

    return manners


MANNERS: dict[str, tuple[Callable[[socket.socket], None], Verdict, str]] = {
    "resets": (reset, Verdict.AGAIN, "reset"),
    "closes without an answer": (lambda _: None, Verdict.AGAIN, "closed without an answer"),
    "answers half a line": (says(b"HTTP/1.1 20"), Verdict.AGAIN, "closed without an answer"),
    "speaks something else": (says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", stay=True), Verdict.AGAIN, "does not speak HTTP"),
    "hangs": (until_gone, Verdict.AGAIN, "no answer within 1 s"),
    "drips its headers": (endless(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n", 0.2), Verdict.AGAIN, "no answer within 1 s"),
    "sends headers for ever": (endless(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 1000), Verdict.AGAIN, "not speak HTTP"),
    "fails and is cut off": (says(b"HTTP/1.1 500 No\r\ncontent-length: 9\r\n\r\nx"), Verdict.AGAIN, "HTTP 500"),
    "has a wrong length": (says(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"), Verdict.AGAIN, "not speak HTTP"),
    # From here on the status is known: sending it again would only repeat it.
    "never ends its answer": (says(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", stay=True), Verdict.DELIVERED, ""),
    "answers with everything": (
        endless(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
        Verdict.DELIVERED,
        "",
    ),
    "garbles its answer": (
        says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzzz\r\n"),
        Verdict.DELIVERED,
        "",
    ),
    "continues first": (says(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 OK\r\n\r\n"), Verdict.DELIVERED, ""),
    "is of 1996": (says(b"HTTP/1.0 200 OK\r\n\r\nthank you"), Verdict.DELIVERED, ""),
}


def post(endpoint: Webhook, *, proxy: Proxy | None = None, times: int = 1) -> list[Answer]:
    async def scenario() -> list[Answer]:
        sender = Sender(endpoint, timeout=PATIENCE, proxy=proxy)
        try:
            return [await sender.post(f"delivery-{n}", b'{"n": 1}', time.time()) for n in range(times)]
        finally:
            await sender.close()

    return asyncio.run(scenario())


@pytest.mark.parametrize("name", MANNERS)
def test_what_a_rude_receiver_does_to_a_delivery(name: str) -> None:
    manners, verdict, told = MANNERS[name]
    server = Rude(manners)
    try:
        (answer,) = post(Webhook(name="rude", url=server.url, allow_http=True, allow_private=True))
    finally:
        server.close()
    assert answer.verdict is verdict, answer
    assert told in answer.explanation


def test_an_answer_without_end_takes_no_memory() -> None:
    manners, _, _ = MANNERS["answers with everything"]
    server = Rude(manners)
    tracemalloc.start()
    try:
        answers = post(Webhook(name="rude", url=server.url, allow_http=True, allow_private=True), times=5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        server.close()
    assert {answer.verdict for answer in answers} == {Verdict.DELIVERED}
    assert peak < 8 << 20


def test_a_connection_that_was_let_go_while_idle_is_no_failure() -> None:
    """The receiver's FIN may cross the next request on its way: then it is sent again at once, over a new connection."""
    server = Rude(says(b"HTTP/1.1 204 No Content\r\n\r\n"))
    try:
        answers = post(Webhook(name="tired", url=server.url, allow_http=True, allow_private=True), times=20)
    finally:
        server.close()
    assert {answer.verdict for answer in answers} == {Verdict.DELIVERED}
    assert server.connections == 20


def test_an_address_that_swallows_packets_does_not_hide_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver()
    # A listener whose queue is full: further connections are never answered, as by a firewall that drops.
    with socket.create_server(("127.0.0.2", receiver.port), backlog=0) as full, contextlib.ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        known = socket.getaddrinfo("127.0.0.2", receiver.port, type=socket.SOCK_STREAM)
        known += socket.getaddrinfo("127.0.0.1", receiver.port, type=socket.SOCK_STREAM)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: known)
        try:
            (answer,) = post(endpoint(receiver, url=receiver.url, allow_private=True))
        finally:
            receiver.close()
    assert answer.verdict is Verdict.DELIVERED, answer


@pytest.mark.parametrize("name", ["hangs", "drips its headers", "resets", "speaks something else"])
def test_others_do_not_wait_for_a_rude_receiver(tmp_path: Path, name: str) -> None:
    server, good = Rude(MANNERS[name][0]), Receiver()
    rude = Webhook(name="rude", url=server.url, allow_http=True)

    async def scenario(store: Store) -> None:
        pace = msgspec.structs.replace(QUICK, timeout=60.0)
        async with running(store, rude, endpoint(good), pace=pace) as webhooks:
            webhooks.offer(commit(store, [*items(50, "rude"), *items(50)]))
            await until(lambda: len(good.requests) == 50)
            assert next(one for one in webhooks.status() if one.name == "rude").waiting == 50

    try:
        with Store.open(tmp_path / "q.db") as store:
            asyncio.run(scenario(store))
    finally:
        good.close()
        server.close()
    assert good.bodies == list(range(50))


# --- TLS and proxies, in processes of their own ---------------------------------------------------------------------------


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Program, Path]]:
    """An HTTPS server for localhost, and the file of its CA."""
    ca_file, _ = authority(tmp_path, "localhost")
    program = Program("receiver_process.py", tmp_path / "received", "--tls", str(tmp_path / "server-localhost.pem"))
    yield program, ca_file
    program.kill()


def over_tls(secure: tuple[Program, Path], **fields: object) -> Webhook:
    program, ca_file = secure
    url = f"https://localhost:{program.port}/hook"
    return msgspec.convert(
        {"name": "ops", "url": url, "ca_file": str(ca_file), "allow_private": True, **fields}, Webhook
    )


def test_only_the_right_authority_is_believed(secure: tuple[Program, Path], tmp_path: Path) -> None:
    program, _ = secure
    (tmp_path / "other").mkdir()
    other, _ = authority(tmp_path / "other", "localhost")
    for fields, verdict in (
        ({}, Verdict.DELIVERED),
        ({"ca_file": str(other)}, Verdict.AGAIN),
        ({"ca_file": None}, Verdict.AGAIN),
        ({"ca_file": None, "verify_tls": False}, Verdict.DELIVERED),
        ({"url": f"https://127.0.0.1:{program.port}/"}, Verdict.AGAIN),
        ({"ca_file": str(tmp_path / "none")}, Verdict.NEVER),
    ):
        (answer,) = post(over_tls(secure, **fields))
        assert answer.verdict is verdict, (fields, answer)
        if verdict is Verdict.AGAIN:
            assert "certificate" in answer.explanation
    assert len(program.lines()) == 2


def test_a_ca_file_that_was_put_right_counts_from_the_next_attempt(
    secure: tuple[Program, Path], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other, _ = authority(tmp_path / "other", "localhost")
    file = tmp_path / "ca.pem"
    file.write_bytes(other.read_bytes())

    async def scenario() -> list[Verdict]:
        sender = Sender(over_tls(secure, ca_file=str(file)), timeout=PATIENCE)
        try:
            first = await sender.post("a", b"{}", time.time())
            file.write_bytes(secure[1].read_bytes())
            return [first.verdict, (await sender.post("a", b"{}", time.time())).verdict]
        finally:
            await sender.close()

    assert asyncio.run(scenario()) == [Verdict.AGAIN, Verdict.DELIVERED]


@pytest.mark.parametrize("kind", ["https through CONNECT", "http passed on"])
def test_a_proxy_that_wants_a_password_gets_it_and_the_receiver_does_not(
    secure: tuple[Program, Path], tmp_path: Path, kind: str
) -> None:
    tls = kind.startswith("https")
    plain = None if tls else Program("receiver_process.py", tmp_path / "plain")
    there = plain or secure[0]
    url = f"{'https' if tls else 'http'}://localhost:{there.port}/hook"
    # The name is one that only the proxy knows, for what is passed on.
    named = url if tls else url.replace("localhost", "receiver.invalid")
    proxy = Program("proxy_process.py", tmp_path / "proxied", "--user", "ops:a b", "--to", f"127.0.0.1:{there.port}")
    known = over_tls(secure, url=named, use_proxy=True, allow_http=not tls)
    try:
        (good,) = post(known, proxy=Proxy.of(f"http://ops:a%20b@127.0.0.1:{proxy.port}"))
        (bad,) = post(known, proxy=Proxy.of(f"http://127.0.0.1:{proxy.port}"))
        requests, received = proxy.lines(), there.lines()
    finally:
        proxy.kill()
        if plain is not None:
            plain.kill()
    assert good.verdict is Verdict.DELIVERED, good
    assert "407" in bad.explanation
    assert bad.verdict is (Verdict.AGAIN if tls else Verdict.NEVER)
    assert [bool(request["authorization"]) for request in requests] == [True, False]
    first = f"CONNECT localhost:{there.port} HTTP/1.1" if tls else f"POST {named} HTTP/1.1"
    assert requests[0]["request"] == first
    (seen,) = received
    assert "proxy-authorization" not in seen["headers"]
    assert "a b" not in json.dumps(requests[0]["headers"])


def test_an_endpoint_that_needs_a_proxy_never_goes_without(tmp_path: Path) -> None:
    receiver = Receiver()

    async def scenario(store: Store) -> None:
        async with running(store, endpoint(receiver, use_proxy=True)) as webhooks:
            webhooks.offer(commit(store, items(1)))
            await until(lambda: webhooks.status()[0].failures >= 2)
            assert "webhooks.proxy" in webhooks.status()[0].last_error

    try:
        with Store.open(tmp_path / "q.db") as store:
            asyncio.run(scenario(store))
            assert len(store.outbox()) == 1
    finally:
        receiver.close()
    assert receiver.requests == []


def test_a_proxy_that_is_none_is_refused_when_it_is_read() -> None:
    for text in ("socks5://proxy:1080", "nonsense", "http://"):
        with pytest.raises(ValueError, match="such as http"):
            Proxy.of(text)


def test_a_redirect_to_a_forbidden_address_is_refused_through_a_proxy_too(tmp_path: Path) -> None:
    receiver = Receiver()
    receiver.script.append((307, {"location": "http://169.254.169.254/latest/meta-data"}, 0.0))
    proxy = Program("proxy_process.py", tmp_path / "proxied")
    settings = WebhookSettings(proxy=f"http://127.0.0.1:{proxy.port}", allow_networks=("127.0.0.0/8",))

    async def scenario(store: Store) -> None:
        async with running(store, endpoint(receiver, use_proxy=True), settings=settings) as webhooks:
            webhooks.offer(commit(store, items(1)))
            await until(lambda: settled(store))
            (reason,) = letters(store).values()
            assert "169.254.169.254 is link-local" in reason

    try:
        with Store.open(tmp_path / "q.db") as store:
            asyncio.run(scenario(store))
        assert len(proxy.lines()) == 1
    finally:
        receiver.close()
        proxy.kill()
