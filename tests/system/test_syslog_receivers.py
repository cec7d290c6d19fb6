"""Syslog against a real rsyslog on loopback, and against receivers that hang, break and come back."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import Live, live
from tests.syslogs import cef, pairs, parse, take
from tests.system.certificates import Authority
from tests.system.command import Ran
from tests.system.command import quell as run
from tests.system.rsyslog import Rsyslog, needed, own_rsyslog
from tests.system.running import Quell, free_port, wait_for

from quell.configuration import Configuration
from quell.controller.syslog.settings import SyslogSettings
from quell.settings import Settings

SETTINGS = Settings(syslog=SyslogSettings(timeout="1s")).with_values(
    {"server.rate_limit": 10_000, "server.rate_burst": 10_000}
)
QUICK = Configuration(settings=SETTINGS)
HOSTILE = 'a "b" c=d ]\\ | \n<0>1 - forged - - - -\r\x1b[31m é 😀'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path / "state", configuration=QUICK) as running:
        yield running


@pytest.fixture
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def rsyslog(tmp_path: Path) -> Iterator[Rsyslog]:
    running = Rsyslog(tmp_path / "rsyslog")
    try:
        yield running
    finally:
        running.close()


def document(name: str, address: str, more: str = "") -> str:
    spec = f"address: '{address}', allow_private: true{', ' if more else ''}{more}"
    return f"{{apiVersion: quell.dev/v1, kind: Syslog, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n---\n"


#: What a receiver is to get in these tests; Quell's own events of requests and the like are another category.
ONLY = "filter: {categories: [security-event]}"


def apply(admin: httpx.Client, *documents: str) -> None:
    admin.post("/v1/documents", content="".join(documents)).raise_for_status()


def send(admin: httpx.Client, *names: str, level: str = "Warning", **fields: Any) -> None:
    """A security event for each name, which is its message."""
    lines = [
        json.dumps(
            {
                "name": "Host.Suspicious.Process",
                "level": level,
                "time": time.time(),
                "subject": {"node": "node1"},
                "details": {"message": name},
            }
            | fields
        )
        for name in names
    ]
    answer = admin.post(
        "/v1/events", content="\n".join(lines), headers={"Content-Type": "application/x-ndjson"}
    ).raise_for_status()
    assert len(answer.json()["ids"]) == len(names), answer.text


def status(admin: httpx.Client, name: str) -> dict[str, Any]:
    items = admin.get("/v1/syslog").raise_for_status().json()["items"]
    return next(item for item in items if item["name"] == name)


def said(raw: bytes | str) -> str:
    """The message of a text message."""
    return pairs(parse(raw if isinstance(raw, bytes) else raw.encode()).text)["message"]


def arrived(rsyslog: Rsyslog) -> list[str]:
    return [said(seen.raw) for seen in rsyslog.seen]


def without_repetitions(found: list[str]) -> list[str]:
    return list(dict.fromkeys(found))


class Listener:
    """A TCP receiver with octet counting. reading: None until it reads; it accepts all the same."""

    def __init__(self, *, reading: bool = True, port: int = 0) -> None:
        self._server = socket.create_server(("127.0.0.1", port))
        self.port = int(self._server.getsockname()[1])
        self.connections: list[socket.socket] = []
        #: Messages that came whole, by connection.
        self.taken: list[list[bytes]] = []
        self._reading = reading
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections.append(connection)
            self.taken.append([])
            if self._reading:
                threading.Thread(target=self._read, args=(connection, self.taken[-1]), daemon=True).start()

    def _read(self, connection: socket.socket, taken: list[bytes]) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                rest += data
                some, end = take(rest)
                taken += some
                rest = rest[end:]

    @property
    def messages(self) -> list[str]:
        """Of all connections; the last of each may have been cut off by its end, and is left out."""
        return [said(message) for taken in self.taken for message in taken]

    def break_off(self) -> None:
        """Reset every connection, as a program that is killed with bytes unread."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                connection.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.break_off()


# --- formats and transports ------------------------------------------------------------------------------------------


@needed
def test_every_format_over_every_transport(tmp_path: Path, admin: httpx.Client) -> None:
    authority = Authority(tmp_path)
    rsyslog = Rsyslog(tmp_path / "rsyslog", tls=(authority.file, *authority.issue("server")))
    try:
        ways = {
            "udp": (f"udp://127.0.0.1:{rsyslog.udp}", ""),
            "tcp": (f"tcp://127.0.0.1:{rsyslog.tcp}", ""),
            "lines": (f"tcp://127.0.0.1:{rsyslog.tcp}", ", framing: newline"),
            "tls": (f"tls://localhost:{rsyslog.tls}", f", ca_file: {authority.file}"),
        }
        facilities = {"text": "local0", "json": "local1", "cef": "authpriv"}
        apply(
            admin,
            *(
                document(
                    f"{way}-{form}",
                    address,
                    f"format: {form}, facility: {facility}, hostname: {way}, {ONLY}{more}",
                )
                for way, (address, more) in ways.items()
                for form, facility in facilities.items()
            ),
        )
        send(admin, HOSTILE, level="Critical")
        wait_for(lambda: len(rsyslog.seen) == len(ways) * len(facilities), what="the messages")
        assert {(seen.host, seen.facility) for seen in rsyslog.seen} == {
            (way, facility) for way in ways for facility in facilities.values()
        }
        for seen in rsyslog.seen:
            # What rsyslog made of it is what the strict reader makes of it.
            message = seen.message
            assert seen.by == seen.host.replace("lines", "tcp")
            assert (seen.app, seen.msgid, seen.severity) == ("quell", "security-event", "2")
            assert seen.data.startswith("[quell@32473 id=")
            assert message.data["quell@32473"]["name"] == "Host.Suspicious.Process"
            form = next(form for form, facility in facilities.items() if facility == seen.facility)
            if form == "text":
                assert pairs(message.text)["message"] == HOSTILE
            elif form == "json":
                assert json.loads(seen.msg)["message"] == HOSTILE
            else:
                assert cef(seen.msg)[1]["msg"] == HOSTILE.replace("\x1b", "\\x1b")
    finally:
        rsyslog.close()


@needed
def test_flags_of_both_classes_are_sent_unless_the_filter_says_no(admin: httpx.Client, rsyslog: Rsyslog) -> None:
    rule = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: tell}
spec:
  event: security-event
  criteria: ["name:Host.Suspicious.Process"]
  actions:
    - makeRedFlag: {severity: critical, impact: bad}
    - makeOpsFlag: {severity: low}
"""
    without = "filter: {categories: [security-event], flags: false}, hostname: without"
    high = "filter: {categories: [cve-report], level: Error}, hostname: high"
    address = f"tcp://127.0.0.1:{rsyslog.tcp}"
    both = f"{ONLY}, hostname: both"
    apply(admin, rule, "---\n", document("both", address, both), document("without", address, without))
    apply(admin, document("high", address, high))
    send(admin, "one")
    wait_for(lambda: len(rsyslog.seen) >= 5, what="the messages")
    found = {(seen.host, seen.msgid, seen.severity) for seen in rsyslog.seen}
    assert found == {
        ("both", "security-event", "4"),
        ("both", "flag", "2"),
        ("both", "flag", "5"),
        ("without", "security-event", "4"),
        ("high", "flag", "2"),
    }
    of_both = [seen for seen in rsyslog.seen if seen.host == "both"]
    assert [seen.msgid for seen in of_both] == ["security-event", "flag", "flag"]
    (event_id,) = {seen.message.data["quell@32473"]["id"] for seen in of_both if seen.msgid != "flag"}
    assert {seen.message.data["quell@32473"]["event"] for seen in of_both if seen.msgid == "flag"} == {event_id}


@needed
def test_filters_and_what_is_suppressed(admin: httpx.Client, rsyslog: Rsyslog) -> None:
    address = f"tcp://127.0.0.1:{rsyslog.tcp}"
    rules = """
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: quiet}
spec: {event: security-event, criteria: ["name:Host.Tunnel.Detected"], actions: [suppress-log]}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: audited}
spec: {event: security-event, criteria: ["name:Host.Privilege.Escalation"], actions: [suppress-log], mode: audit}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: all-quiet}
spec: {event: event, criteria: ["name:Container.*"], actions: [suppress-log]}
---
"""
    apply(
        admin,
        rules,
        document("levels", address, "hostname: levels, filter: {categories: [security-event, event], level: error}"),
        document("categories", address, "hostname: categories, filter: {categories: [admission-control]}"),
        document("all", address, f"hostname: all, {ONLY}"),
    )
    for level in ("Emergency", "Alert", "Critical", "Error", "Warning", "Notice", "Info", "Debug"):
        send(admin, level, level=level)
    send(admin, "suppressed", level="Critical", name="Host.Tunnel.Detected")
    send(admin, "suppressed too", level="Critical", name="Container.Start", category="event")
    send(admin, "audited", level="Critical", name="Host.Privilege.Escalation")
    send(admin, "denied", name="Admission.Control.Denied", category="admission-control")
    send(admin, "last", level="Critical")
    wait_for(lambda: sum(seen.raw.count("message=last") for seen in rsyslog.seen) == 2, what="the last one")
    found: dict[str, list[str]] = {"levels": [], "categories": [], "all": []}
    for seen in rsyslog.seen:
        found[seen.host].append(said(seen.raw))
    eight = ["Emergency", "Alert", "Critical", "Error", "Warning", "Notice", "Info", "Debug"]
    assert found == {
        "levels": [*eight[:4], "audited", "last"],
        "categories": ["denied"],
        "all": [*eight, "audited", "last"],
    }


# --- TLS -------------------------------------------------------------------------------------------------------------


@needed
def test_tls_trusts_its_authority_and_name_only(tmp_path: Path, admin: httpx.Client) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "another authority")
    certificate, key = authority.issue("server", names=("localhost",))
    rsyslog = Rsyslog(tmp_path / "rsyslog", tls=(authority.file, certificate, key))
    mute = Listener(reading=False)
    good, wrong_name = f"tls://localhost:{rsyslog.tls}", f"tls://127.0.0.1:{rsyslog.tls}"
    try:
        apply(
            admin,
            document("system", good, ONLY),
            document("other", good, f"ca_file: {other.file}, {ONLY}"),
            document("name", wrong_name, f"ca_file: {authority.file}, {ONLY}"),
            document("missing", good, f"ca_file: /nowhere.pem, {ONLY}"),
            document("mute", f"tls://127.0.0.1:{mute.port}", f"ca_file: {authority.file}, {ONLY}"),
        )
        send(admin, "secret")
        for name, told in {
            "system": "not trusted",
            "other": "not trusted",
            "name": "IP address mismatch",
            "missing": "CA file /nowhere.pem: No such file",
            "mute": "within 1 s",
        }.items():
            wait_for(lambda name=name: status(admin, name)["failures"] > 0, what=name)  # type: ignore[misc]
            one = status(admin, name)
            assert told in one["last_error"], one
            assert (one["sent"], one["state"]) == (0, "failing")
            assert one["lag_events"] >= 1
            answer = admin.post(f"/v1/syslog/{name}/test")
            assert answer.status_code == 502
            assert told in answer.json()["detail"]
        assert rsyslog.seen == []
        # The change is the cure, and what waited is sent.
        apply(admin, document("other", good, f"ca_file: {authority.file}, hostname: other, {ONLY}"))
        apply(admin, document("name", wrong_name, f"verify_tls: false, hostname: name, {ONLY}"))
        wait_for(lambda: len(rsyslog.seen) == 2, what="what waited")
        assert {(seen.host, said(seen.raw)) for seen in rsyslog.seen} == {("other", "secret"), ("name", "secret")}
    finally:
        mute.close()
        rsyslog.close()


@needed
def test_a_receiver_that_wants_to_know_who_sends(tmp_path: Path, admin: httpx.Client) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "another authority")
    certificate, key = authority.issue("quell", names=())
    strange, strange_key = other.issue("stranger", names=())
    rsyslog = Rsyslog(tmp_path / "rsyslog", tls=(authority.file, *authority.issue("server")), clients=True)
    address, trusted = f"tls://localhost:{rsyslog.tls}", f"ca_file: {authority.file}"
    try:
        apply(
            admin,
            document("nobody", address, f"{trusted}, {ONLY}"),
            document("stranger", address, f"{trusted}, client_cert_file: {strange}, client_key_file: {strange_key}"),
            document("wrong", address, f"{trusted}, client_cert_file: {certificate}, client_key_file: {strange_key}"),
            document("good", address, f"{trusted}, client_cert_file: {certificate}, client_key_file: {key}, {ONLY}"),
        )
        send(admin, "secret")
        wait_for(lambda: len(rsyslog.seen) == 1, what="the message")
        for name in ("nobody", "stranger", "wrong"):
            wait_for(lambda name=name: status(admin, name)["failures"] > 0, what=name)  # type: ignore[misc]
            assert admin.post(f"/v1/syslog/{name}/test").status_code == 502
        assert "client certificate" in status(admin, "wrong")["last_error"]
        assert admin.post("/v1/syslog/good/test").raise_for_status().json()["acknowledged"] is True
        wait_for(lambda: len(rsyslog.seen) == 2, what="the test message")
        assert [seen.msgid for seen in rsyslog.seen] == ["security-event", "test"]
    finally:
        rsyslog.close()


@needed
def test_the_page_of_docs_configures_an_rsyslog(tmp_path: Path, admin: httpx.Client) -> None:
    """What docs/syslog.md shows, with other folders and another port."""
    page = (Path(__file__).parents[2] / "docs/syslog.md").read_text()
    [configuration] = re.findall(r"```rsyslog\n(.*?)```", page, flags=re.DOTALL)
    [receiver] = re.findall(r"```yaml\n(apiVersion[^`]*tls://[^`]*)```", page)
    authority, port = Authority(tmp_path, "ca"), free_port()
    authority.issue("server")
    authority.issue("quell", names=())
    here = tmp_path.as_posix()
    configuration = configuration.replace("/etc/rsyslog.d", here).replace("/var/log", here).replace("6514", str(port))
    receiver = receiver.replace("/etc/quell", here).replace("logs.example.org:6514", f"localhost:{port}")
    rule = """---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {name: tell}
spec: {event: security-event, criteria: ["level:Critical"], actions: [makeOpsFlag: {severity: low}]}
"""
    process = own_rsyslog(tmp_path, configuration, port)
    try:
        apply(admin, receiver + "  allow_private: true\n", rule)
        send(admin, "told", level="Critical")
        files = tmp_path / "quell-flags.json", tmp_path / "quell.json"
        wait_for(lambda: all(file.exists() for file in files), what="both files")
        wait_for(lambda: "told" in files[1].read_text(), what="the event")
        lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
        assert [line["flag"]["class"] for line in lines[0]] == ["ops"]
        assert {line["category"] for line in lines[1]} >= {"security-event"}
    finally:
        process.kill()
        process.wait()


# --- nothing is lost -------------------------------------------------------------------------------------------------


@needed
def test_a_server_that_goes_and_comes_back_misses_nothing(admin: httpx.Client, rsyslog: Rsyslog) -> None:
    apply(admin, document("siem", f"tcp://127.0.0.1:{rsyslog.tcp}", ONLY))
    wanted: list[str] = []

    def some(count: int) -> None:
        names = [f"{len(wanted) + n:04}" for n in range(count)]
        wanted.extend(names)
        send(admin, *names)

    some(20)
    wait_for(lambda: arrived(rsyslog) == wanted, what="the first")
    for _ in range(2):
        rsyslog.stop()
        for _ in range(30):
            some(7)
            time.sleep(0.02)
        rsyslog.start()
        some(10)
        wait_for(lambda: set(wanted) <= set(arrived(rsyslog)), seconds=90, what="all of them")
    found = arrived(rsyslog)
    assert without_repetitions(found) == wanted
    one = status(admin, "siem")
    assert one["failures"] >= 2
    assert (one["state"], one["lag_events"], one["lost"]) == ("idle", 0, 0)


def test_a_broken_connection_repeats_only_what_may_not_have_arrived(admin: httpx.Client) -> None:
    """Events flow while connections are reset at random moments with bytes unread."""
    listener = Listener()
    apply(admin, document("siem", f"tcp://127.0.0.1:{listener.port}", ONLY))
    wanted: list[str] = []
    try:
        for round_ in range(4):
            for _ in range(25):
                names = [f"{len(wanted) + n:05}" for n in range(20)]
                wanted.extend(names)
                send(admin, *names)
            if round_ < 3:
                listener.break_off()
        wait_for(lambda: set(wanted) <= set(listener.messages), seconds=60, what="all of them")
    finally:
        listener.close()
    for taken in listener.taken:
        own = [said(message) for message in taken]
        assert own == wanted[wanted.index(own[0]) :][: len(own)] if own else True
    assert without_repetitions(sorted(listener.messages)) == wanted


def test_a_receiver_that_hangs_delays_nobody_and_misses_nothing(admin: httpx.Client) -> None:
    hung, good = Listener(reading=False), Listener()
    apply(
        admin,
        document("hung", f"tcp://127.0.0.1:{hung.port}", ONLY),
        document("good", f"tcp://127.0.0.1:{good.port}", ONLY),
    )
    # More than the kernels of both sides hold.
    wanted = [f"{n:05}" + "x" * 3000 for n in range(3000)]
    for start in range(0, len(wanted), 100):
        send(admin, *wanted[start : start + 100])
    wait_for(lambda: len(good.messages) == len(wanted), seconds=60, what="the good receiver's")
    assert good.messages == wanted
    wait_for(lambda: "took nothing" in status(admin, "hung")["last_error"], what="the hung receiver's state")
    one = status(admin, "hung")
    assert one["lag_events"] > 0
    assert one["lag_seconds"] > 0
    hung.close()
    replaced = Listener(port=hung.port)
    try:
        wait_for(lambda: set(wanted) <= set(replaced.messages), seconds=90, what="what the hung one never read")
        # It had read nothing: all of it comes, from the first on.
        assert without_repetitions(replaced.messages) == wanted
    finally:
        replaced.close()
        good.close()


@needed
@pytest.mark.slow
def test_a_killed_controller_goes_on_where_it_was(tmp_path: Path, rsyslog: Rsyslog) -> None:
    quell = Quell(tmp_path)
    wanted: list[str] = []
    try:
        quell.start_controller()
        quell.ask("POST", "/v1/documents", content=document("siem", f"tcp://127.0.0.1:{rsyslog.tcp}", ONLY))
        for round_ in range(4):
            for _ in range(30):
                name = f"{len(wanted):04}"
                event = {"id": name, "name": "Host.Suspicious.Process", "details": {"message": name}}
                quell.ask("POST", "/v1/events", content=json.dumps(event))
                wanted.append(name)
            # The first time nothing of its place but its beginning can be on disk.
            time.sleep(0.3 * round_)
            quell.kill(quell.controller, signal.SIGKILL)
            quell.start_controller()
        wait_for(lambda: set(wanted) <= set(arrived(rsyslog)), seconds=60, what="all of them")
        assert without_repetitions(arrived(rsyslog)) == wanted
        quell.stop()
        before = len(rsyslog.seen)
        quell.start_controller()
        quell.ask("POST", "/v1/events", content=json.dumps({"name": "Host.Suspicious.Process"}))
        wait_for(lambda: len(rsyslog.seen) > before, what="the last")
        time.sleep(0.5)
        assert len(rsyslog.seen) == before + 1, "an orderly stop repeats nothing"
    except BaseException:
        sys.stdout.write(quell.log())
        raise
    finally:
        quell.close()


# --- life ------------------------------------------------------------------------------------------------------------


def test_a_receiver_starts_now_and_keeps_its_place_through_changes(admin: httpx.Client) -> None:
    listener = Listener()
    address = f"tcp://127.0.0.1:{listener.port}"
    try:
        send(admin, "before")
        apply(admin, document("siem", address, ONLY))
        send(admin, "1")
        wait_for(lambda: listener.messages == ["1"], what="the first")
        apply(admin, document("siem", address, "filter: {categories: [security-event], level: Error}"))
        send(admin, "filtered")
        send(admin, "2", level="Error")
        wait_for(lambda: listener.messages == ["1", "2"], what="the second")
        assert len(listener.connections) == 1, "another filter is no reason to connect anew"
        apply(admin, document("siem", address, f"{ONLY}, enable: false"))
        assert status(admin, "siem")["state"] == "disabled"
        send(admin, "while disabled")
        apply(admin, document("siem", address, ONLY))
        send(admin, "3")
        wait_for(lambda: listener.messages == ["1", "2", "3"], what="the third")
        other = Listener()
        apply(admin, document("siem", f"tcp://127.0.0.1:{other.port}", ONLY))
        send(admin, "4")
        wait_for(lambda: other.messages[-1:] == ["4"], what="the fourth, elsewhere")
        assert other.messages == ["4"]
        other.close()
        admin.delete("/v1/documents/Syslog/siem").raise_for_status()
        assert admin.get("/v1/syslog").json()["items"] == []
        send(admin, "while deleted")
        apply(admin, document("siem", address, ONLY))
        send(admin, "5")
        wait_for(lambda: listener.messages == ["1", "2", "3", "5"], what="the fifth")
    finally:
        listener.close()


def test_an_address_of_this_host_is_refused_unless_it_is_allowed(server: Live, admin: httpx.Client) -> None:
    listener = Listener()
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    probe.bind(("127.0.0.1", 0))
    probe.settimeout(0.5)
    port = probe.getsockname()[1]
    try:
        for number, address in enumerate(
            (f"tcp://127.0.0.1:{listener.port}", f"tls://localhost:{listener.port}", f"udp://[::ffff:127.0.0.1]:{port}")
        ):
            name = f"r{number}"
            apply(admin, document(name, address, ONLY).replace("allow_private: true", "allow_private: false"))
            wait_for(lambda name=name: status(admin, name)["failures"] > 0, what=name)  # type: ignore[misc]
            assert "loopback" in status(admin, name)["last_error"]
            assert "loopback" in admin.post(f"/v1/syslog/{name}/test").json()["detail"]
        send(admin, "x")
        with pytest.raises(TimeoutError):
            probe.recv(100)
        assert listener.connections == []
        assert server.controller.settings.syslog.allow_private is False
    finally:
        probe.close()
        listener.close()


def test_the_operator_may_open_networks(tmp_path: Path) -> None:
    listener = Listener()
    allowed = Configuration(settings=Settings(syslog=SyslogSettings(allow_networks=("127.0.0.1/32",))))
    try:
        with live(tmp_path / "s", configuration=allowed) as server, server.client() as admin:
            address = f"tcp://127.0.0.1:{listener.port}"
            apply(admin, document("siem", address, ONLY).replace("allow_private: true, ", ""))
            send(admin, "x")
            wait_for(lambda: listener.messages == ["x"], what="the message")
    finally:
        listener.close()


def test_udp_is_sent_and_forgotten(admin: httpx.Client) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        port = receiver.getsockname()[1]
        apply(admin, document("siem", f"udp://127.0.0.1:{port}", ONLY))
        send(admin, "one", "two" + "x" * 5000)
        first, second = receiver.recv(65536), receiver.recv(65536)
        assert said(first) == "one"
        assert len(second) <= 2048
        assert said(second).startswith("twox")
    for n in range(20):
        send(admin, f"nobody there {n}")
        if "refused" in status(admin, "siem")["last_error"]:
            break
        time.sleep(0.2)
    assert "refused" in status(admin, "siem")["last_error"]
    wait_for(lambda: status(admin, "siem")["state"] == "idle", what="the end of what was to be sent")
    assert status(admin, "siem")["lag_events"] == 0
    assert admin.post("/v1/syslog/siem/test").json()["acknowledged"] is False


def test_the_command_line(server: Live, admin: httpx.Client) -> None:
    listener, closed = Listener(), free_port()
    try:
        apply(
            admin,
            document("siem", f"tcp://127.0.0.1:{listener.port}", ONLY),
            document("away", f"tcp://127.0.0.1:{closed}", f"{ONLY}, enable: false"),
        )

        def quell(*words: str) -> Ran:
            return run(*words, url=server.url, token=server.token("admin"))

        sent = quell("syslog", "test", "siem")
        assert sent.returncode == 0, sent.stderr
        assert "which acknowledged it" in sent.stdout
        identifier = sent.stdout.split()[1]
        wait_for(lambda: bool(listener.messages), what="the test message")
        [message] = listener.taken[-1]
        assert parse(message).data["quell@32473"]["id"] == identifier
        failed = quell("syslog", "test", "away")
        assert failed.returncode == 1
        assert "Connection refused" in failed.stderr
        assert quell("syslog", "test", "nobody").returncode == 1
        rows = quell("syslog", "status").stdout.splitlines()
        assert [row.split()[0] for row in rows] == ["RECEIVER", "away", "siem"]
        assert "disabled" in rows[1]
        told = json.loads(quell("syslog", "status", "-o", "json").stdout)
        assert [one["name"] for one in told] == ["away", "siem"]
        entries = admin.get("/v1/audit", params={"limit": 50}).json()["items"]
        tests = [entry["entry"] for entry in entries if entry["entry"]["verb"] == "test"]
        assert {entry["name"] for entry in tests} == {"siem", "away"}
    finally:
        listener.close()


def test_what_retention_took_is_told(tmp_path: Path) -> None:
    """A receiver that is away for longer than the journal keeps events: counted, flagged once, and visible."""
    port = free_port()
    small = SETTINGS.with_values({"journal.max_bytes": 4 << 20})
    with live(tmp_path / "s", configuration=Configuration(settings=small)) as server, server.client() as admin:
        apply(admin, document("siem", f"tcp://127.0.0.1:{port}", ONLY))
        wanted = [f"{n:05}" for n in range(3000)]
        for start in range(0, len(wanted), 200):
            # Nothing that could be compressed.
            send(admin, *(name + secrets.token_hex(3000) for name in wanted[start : start + 200]))
        listener = Listener(port=port)
        try:
            wait_for(
                lambda: any("will never reach" in message for message in listener.messages),
                seconds=90,
                what="what was kept, and the flag",
            )
            kept = [message[:5] for message in listener.messages if message[:5] in set(wanted)]
            assert kept == wanted[-len(kept) :]
            one = status(admin, "siem")
            assert one["lost"] >= len(wanted) - len(kept) > 0
            [flag] = [one for one in admin.get("/v1/flags").json()["items"] if one["name"].startswith("Syslog")]
            assert (flag["flag_class"], "siem" in flag["description"]) == ("ops", True)
            metrics = admin.get("/metrics").text
            assert f'quell_syslog_lost_total{{receiver="siem"}} {float(one["lost"])}' in metrics
        finally:
            listener.close()
