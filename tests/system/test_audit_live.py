"""The audit log of a live controller: what it holds, who may read it, and that tampering is found on line and off."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import command
import httpx
import pytest
from command import Ran
from live import Live, live
from scripted_agent import NODE, ScriptedAgent

from quell.client import Client
from quell.configuration import load_configuration
from quell.model.audit import Verification
from quell.model.decision import Outcome, OutcomeStatus

SECRET = "hunter2-correct-horse"
#: Of a webhook: base64, as its convention wants it.
SIGNING = base64.b64encode(SECRET.encode() * 2).decode()
RULES = f"""\
apiVersion: quell.dev/v1
kind: Webhook
metadata: {{name: soc}}
spec: {{type: Slack, url: "https://hooks.slack.com/{SECRET}", secret: "whsec_{SIGNING}", headers: {{X-Key: "{SECRET}"}}}}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {{name: kill-it}}
spec: {{event: security-event, criteria: ["name:Host.Suspicious.Process"], actions: [agentKillProcess]}}
---
apiVersion: quell.dev/v1
kind: ResponseRule
metadata: {{name: isolate-it}}
spec: {{event: security-event, criteria: ["name:Container.Suspicious.Process"], actions: [quarantine]}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    given = load_configuration(None, {"QUELL_WEBHOOKS_PROXY": f"http://quell:{SECRET}@proxy.example.org"})
    with live(tmp_path_factory.mktemp("audit") / "s", configuration=given) as running:
        yield running


@pytest.fixture
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def quell(server: Live, *words: str) -> Ran:
    return command.quell(*words, url=server.url, state=server.folder)


def entries(admin: httpx.Client, **wanted: Any) -> list[dict[str, Any]]:
    """Newest first."""
    found = admin.get("/v1/audit", params={"limit": 1000, **wanted}).raise_for_status().json()["items"]
    return [record["entry"] for record in found]


def holds(admin: httpx.Client) -> bool:
    told = admin.get("/v1/audit/verification").raise_for_status().json()
    return bool(told["complete"]) and not told.get("findings")


def post(admin: httpx.Client, name: str, **subject: Any) -> str:
    process = {"pid": 4711, "start_ticks": 9, "boot_id": "boot", "name": "nc", "cmdline": f"nc -p {SECRET}"}
    event = {"time": time.time(), "name": name, "subject": {"node": NODE, "process": process, **subject}}
    return str(admin.post("/v1/events", json=event).raise_for_status().json()["ids"][0])


def test_every_action_has_its_outcome_once_and_a_release_its_asker(admin: httpx.Client) -> None:
    admin.post("/v1/documents", content=RULES).raise_for_status()
    agent = ScriptedAgent(admin)
    with agent.linked():
        event = post(admin, "Host.Suspicious.Process")
        command = agent.ordered()
        ended = Outcome(
            id=command.id, status=OutcomeStatus.DONE, time=time.time(), duration=0.001, facts={"pids": [4711]}
        )
        agent.report(ended)
        agent.report(ended)
        [kill] = entries(admin, kind="action", verb="agentKillProcess")
        assert kill["actor"] == {"kind": "system", "name": "quell"}
        assert kill["name"] == f"{NODE}/nc[4711]"
        assert (kill["after"]["event"], kill["after"]["status"], kill["after"]["agent"]) == (event, "done", agent.id)
        assert (kill["after"]["asked_by"], kill["after"]["facts"]) == (["rule/8"], {"pids": [4711]})

        post(admin, "Container.Suspicious.Process", container={"id": "c1"})
        command = agent.ordered()
        agent.report(Outcome(id=command.id, status=OutcomeStatus.DONE, time=time.time()))
        [held] = admin.get("/v1/quarantines").json()["items"]
        admin.delete(f"/v1/quarantines/{held['key']}").raise_for_status()
        released = agent.ordered()
        [asked] = entries(admin, kind="quarantine")
        assert (asked["verb"], asked["name"]) == ("release", held["key"])
        assert asked["actor"] == {"kind": "token", "name": "first-admin", "address": "127.0.0.1"}
        assert list(asked["before"]["holders"]) == ["rule/9"]
        agent.report(Outcome(id=released.id, status=OutcomeStatus.DONE, time=time.time()))
        [done] = entries(admin, kind="action", verb="release")
        assert (done["actor"], done["after"]["status"]) == ({"kind": "token", "name": "first-admin"}, "done")
    assert holds(admin)


def test_a_command_that_expired_has_an_entry_too(admin: httpx.Client) -> None:
    admin.post("/v1/documents", content=RULES).raise_for_status()
    admin.patch("/v1/settings", json={"set": {"safety.command_ttl": "1s"}}).raise_for_status()
    with ScriptedAgent(admin).linked():
        pass  # known, and away
    event = post(admin, "Host.Suspicious.Process")
    end = time.monotonic() + 30
    while not (found := [one for one in entries(admin, kind="action") if one["after"]["event"] == event]):
        assert time.monotonic() < end, "no outcome came"
        time.sleep(0.1)
    assert (found[0]["after"]["status"], found[0]["after"]["reason"]) == ("expired", "expired")
    admin.patch("/v1/settings", json={"unset": ["safety.command_ttl"]}).raise_for_status()


def test_no_secret_is_in_the_log(server: Live, admin: httpx.Client) -> None:
    admin.post("/v1/documents", content=RULES.replace("kill-it", "kill-another")).raise_for_status()
    post(admin, "Host.Suspicious.Process")
    made = admin.post("/v1/tokens", json={"role": "viewer", "name": "secret-holder"}).raise_for_status().json()["token"]
    joining = admin.post("/v1/agents/join-tokens", json={"ttl": 60}).json()["token"]
    whole = admin.get("/v1/audit/export").raise_for_status().content
    raw = b"".join(
        body for (body,) in server.controller.store.read(lambda c: c.execute("SELECT body FROM audit").fetchall())
    )
    for secret in (SECRET, SIGNING, made, joining, server.token("admin"), server.token("ingest")):
        assert secret.encode() not in whole + raw
    assert b"webhooks.proxy" in whole


def test_lists_are_filtered_and_paged(admin: httpx.Client) -> None:
    for skew in ("1s", "2s", "3s"):
        admin.patch("/v1/settings", json={"set": {"safety.clock_skew": skew}}).raise_for_status()
    wanted = {"name": "safety.clock_skew", "kind": "setting", "limit": 2}
    first = admin.get("/v1/audit", params=wanted).json()
    second = admin.get("/v1/audit", params={**wanted, "cursor": first["next"]}).json()
    assert [record["entry"]["after"] for record in first["items"] + second["items"]] == ["3s", "2s", "1s"]
    newest = first["items"][0]
    assert entries(admin, since=newest["time"], name="safety.clock_skew") == [newest["entry"]]
    assert newest["entry"] not in entries(admin, until=newest["time"])
    assert entries(admin, actor="user/nobody") == []
    assert {one["verb"] for one in entries(admin, actor="system/quell", kind="token")} == {"create"}
    assert admin.get("/v1/audit", params={"cursor": "x"}).status_code == 400


def test_viewers_see_no_addresses_and_may_not_take_it_all(admin: httpx.Client) -> None:
    token = admin.post("/v1/tokens", json={"role": "viewer", "name": "looker"}).json()["token"]
    with httpx.Client(base_url=admin.base_url, headers={"Authorization": f"Bearer {token}"}) as viewer:
        assert any("address" in one["actor"] for one in entries(admin))
        assert not any("address" in one["actor"] for one in entries(viewer))
        assert viewer.get("/v1/audit/head").status_code == 200
        for path in ("export", "verification"):
            assert viewer.get(f"/v1/audit/{path}").status_code == 403


def test_verified_in_parts(server: Live, admin: httpx.Client) -> None:
    assert holds(admin)
    part = admin.get("/v1/audit/verification", params={"limit": 2}).json()
    assert (part["entries"], part["complete"]) == (2, False)
    rest = admin.get("/v1/audit/verification", params={"after": part["last"], "after_hash": part["hash"]}).json()
    assert rest["complete"]
    assert admin.get("/v1/audit/verification", params={"after": 2}).status_code == 400
    seen: list[tuple[int, int]] = []
    with Client(server.url, server.token("admin")) as client:
        told: Verification = client.audit.verification(lambda done, of: seen.append((done, of)))
        assert client.audit.head().n == told.last
    assert (told.findings, seen[-1][0]) == ([], told.entries)


def test_the_command_line(server: Live, admin: httpx.Client, tmp_path: Path) -> None:
    listed = quell(server, "audit", "list", "--kind", "token", "--since", "1h", "-n", "1")
    assert listed.returncode == 0
    assert listed.stdout.splitlines()[0].split() == ["N", "TIME", "ACTOR", "VERB", "KIND", "NAME", "FROM", "NOTE"]
    assert quell(server, "audit", "list", "--since", "yesterday-ish").returncode == 2
    found = json.loads(quell(server, "audit", "list", "-o", "json").stdout)
    assert found[0]["n"] > found[1]["n"]

    on_line = quell(server, "audit", "verify")
    assert (on_line.returncode, "signed by the controller" in on_line.stdout) == (0, True)
    off_line = quell(server, "audit", "verify", "--state", str(server.folder))
    assert (off_line.returncode, off_line.stdout) == (0, on_line.stdout)

    file = tmp_path / "log.ndjson"
    saved = quell(server, "audit", "export", str(file))
    assert saved.returncode == 0, saved.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert quell(server, "audit", "export", str(file)).returncode == 3  # never replaced
    noted = saved.stdout.splitlines()[-1]
    assert quell(server, "audit", "verify", "-f", str(file)).returncode == 0
    assert quell(server, "audit", "verify", "--state", str(server.folder), "--head", noted).returncode == 0
    other = quell(server, "audit", "verify", "--state", str(server.folder), "--head", "0" * 64)
    assert (other.returncode, "does not pass through" in other.stdout) == (1, True)
    assert quell(server, "audit", "verify", "--head", noted).returncode == 2

    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]))
    cut = quell(server, "audit", "verify", "-f", str(file))
    assert (cut.returncode, "cut off" in cut.stdout) == (1, True)
    piped = quell(server, "audit", "export", "-")
    assert len(piped.stdout.splitlines()) > len(lines)


def test_what_is_done_to_the_file_is_found(tmp_path: Path) -> None:
    """Altered while the controller runs: it says so itself; while it is stopped: the check without it does."""
    with live(tmp_path / "s") as server, server.client() as admin:
        for skew in ("1s", "2s", "3s"):
            admin.patch("/v1/settings", json={"set": {"safety.clock_skew": skew}}).raise_for_status()
        outside(server.folder, "UPDATE audit SET time = time + 1 WHERE n = 3")
        told = admin.get("/v1/audit/verification").json()["findings"]
        assert [(finding["n"], finding["fault"]) for finding in told] == [(3, "altered")]
        done = quell(server, "audit", "verify")
        assert done.returncode == 1
        assert done.stdout.startswith("entry 3: altered: ")
        outside(server.folder, "UPDATE audit SET time = time - 1 WHERE n = 3")
        assert holds(admin)
    outside(tmp_path / "s", "DELETE FROM audit WHERE n >= 4")
    told_of = quell(server, "audit", "verify", "--state", str(tmp_path / "s"))
    assert (told_of.returncode, told_of.stdout.startswith("entry 4: cut off: ")) == (1, True)
    with live(tmp_path / "s") as server, server.client() as admin:
        [broken] = entries(admin, kind="audit")
        assert "changed from outside" in broken["note"]
        [finding] = admin.get("/v1/audit/verification").json()["findings"]
        assert (finding["fault"], finding["n"]) == ("broken before", 4)


WRITER = """
import sqlite3, sys, time
from pathlib import Path
from quell.channel.keys import load_or_create_key
from quell.model.audit import QUELL, AuditEntry
from quell.model.decision import Outcome, OutcomeStatus
from quell.storage import audit
from quell.storage.records import Noted
from quell.storage.store import Store

folder = Path(sys.argv[1])
store = Store.open(folder / "quell.db", key=load_or_create_key(folder / "controller.key"))
n = 0
while True:
    n += 1
    entry = AuditEntry(actor=QUELL, verb="change", kind="thing", name=str(n))
    outcome = Outcome(id=f"{time.time_ns()}/{n}", status=OutcomeStatus.DONE, time=time.time())
    noted = [Noted(entry=entry, time=time.time(), outcome=(outcome.id, "done"))]
    store.record_outcomes([outcome], lambda error: None, (), noted)
    store.submit(lambda connection: audit.append(connection, entry, time.time())).result()
    print(n, flush=True)
"""


def test_the_end_is_signed_whenever_the_process_is_killed(tmp_path: Path) -> None:
    verified = 0
    for moment in (3, 20):
        command_line = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                if int(line) >= moment:
                    writer.kill()
                    break
        done = command.quell("audit", "verify", "--state", str(tmp_path), "-o", "json", url="", state=tmp_path)
        told = json.loads(done.stdout)
        assert (done.returncode, told["findings"], told["complete"]) == (0, [], True)
        assert told["entries"] >= verified + 2 * moment
        verified = told["entries"]


def outside(folder: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / "quell.db", timeout=20)) as connection, connection:
        connection.execute(statement)
