"""Who trusts whom: TLS with an authority of Quell's own or the user's, a new command key, an agent that is revoked.

DESIGN, trust; docs/threat-model.md.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from certificates import Authority
from running import wait_for
from trust_place import NODE, Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_an_agent_joins_over_tls_and_trusts_the_authority_of_its_token(place: Place) -> None:
    place.start_controller()
    place.join()
    assert (place.agent_state / "ca.pem").read_bytes() == place.ca_file.read_bytes()
    assert oct(place.state.joinpath("ca.key").stat().st_mode & 0o777) == "0o600"
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(f"{place.url}/healthz")


def test_a_controller_of_another_authority_is_not_joined(place: Place) -> None:
    place.start_controller()
    secret, _, fingerprint = place.join_token().partition(".")
    turned = ("0" if fingerprint[0] != "0" else "1") + fingerprint[1:]
    agent = place.start_agent(f"{secret}.{turned}")
    assert agent.wait(30) == 5
    assert "is not the one of the join token" in place.log()
    assert not (place.agent_state / "ca.pem").exists()
    assert place.agents() == []


def test_what_answers_speaks_a_tls_of_today(place: Place) -> None:
    place.start_controller()
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{place.port}/healthz")
    with socket.create_connection(("127.0.0.1", place.port), timeout=5) as line:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError, match=r"(?i)ssl|tls|reset"):
            old.wrap_socket(line)


def test_the_certificate_is_kept_and_made_anew_for_another_name(place: Place) -> None:
    controller = place.start_controller()
    authority, first = place.ca_file.read_bytes(), place.state.joinpath("server.crt").read_bytes()
    place.stop(controller)
    controller = place.start_controller()
    assert place.state.joinpath("server.crt").read_bytes() == first
    place.stop(controller)
    place.environment["QUELL_SERVER_NAMES"] = "quell.example"
    place.start_controller()
    assert place.state.joinpath("server.crt").read_bytes() != first
    assert place.ca_file.read_bytes() == authority


def test_with_a_certificate_of_the_users_own(place: Place, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("controller")
    place.ca_file = authority.file
    place.environment |= {
        "QUELL_SERVER_CERTIFICATE": str(certificate),
        "QUELL_SERVER_CERTIFICATE_KEY": str(key),
        "QUELL_SERVER_AUTHORITY": str(authority.file),
    }
    place.start_controller()
    assert not place.state.joinpath("ca.key").exists()
    place.start_agent(place.join_token("--ca-file", str(authority.file)))
    wait_for(place.linked, what="the agent's link")
    assert "no controller answers" in place.cli("agents", "list", code=4)


def test_a_certificate_that_does_not_fit_its_key_is_refused_at_the_start(place: Place, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("one")[0], authority.issue("two")[1]
    given = {"QUELL_SERVER_CERTIFICATE": str(certificate), "QUELL_SERVER_CERTIFICATE_KEY": str(key)}
    done = subprocess.run(
        [sys.executable, *place.controller_words()],
        env={**os.environ, **place.environment, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "server.certificate" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_revoked_agent_is_cut_at_once_and_cannot_come_back(place: Place) -> None:
    place.start_controller()
    agent = place.join()
    ((identifier, _),) = place.agents()
    assert "no longer enrolled" in place.cli("agents", "revoke", NODE)
    assert place.agents() == []
    wait_for(lambda: f"agent '{identifier}' is not enrolled" in place.log(), what="the refused link")
    assert agent.poll() is None
    assert place.agents() == []


def test_agents_follow_a_new_key_also_those_that_were_away(place: Place) -> None:
    controller = place.start_controller()
    agent = place.join()
    pinned = place.pinned()
    assert "in use by process" in place.cli("rotate-key", code=1)
    place.stop(agent)
    place.stop(controller)
    for _ in range(2):
        place.cli("rotate-key")
    assert place.pinned() == pinned
    place.start_controller()
    place.start_agent()
    wait_for(place.linked, what="the agent's link")
    wait_for(lambda: place.pinned() != pinned, what="the new key")
    place.cli("audit", "verify")
    kill = 'event: incident, criteria: ["process:sleep"], actions: [agentKillProcess]'
    rule = f"apiVersion: quell.dev/v1\nkind: ResponseRule\nmetadata: {{name: k}}\nspec: {{{kill}}}\n"
    victim = subprocess.Popen(["sleep", "60"])
    try:
        started = int(Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()[19])
        subject = {"node": NODE, "process": {"pid": victim.pid, "start_ticks": started, "name": "sleep"}}
        with place.client() as client:
            client.post("/v1/documents", content=rule).raise_for_status()
            end = time.monotonic() + 30
            while victim.poll() is None and time.monotonic() < end:
                event = {"time": time.time(), "name": "Host.Suspicious.Process", "subject": subject}
                client.post("/v1/events", json=event).raise_for_status()
                time.sleep(0.3)
        assert victim.wait(1) == -signal.SIGKILL, place.log()
    finally:
        victim.kill()
        victim.wait()
