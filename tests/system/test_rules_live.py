"""Rules over HTTP and from the command line: order, life cycle, roles, default rules, options, completion, many rules."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import Live, live
from tests.plans import group, killing, rule, webhook
from tests.system.command import Ran
from tests.system.command import quell as run

FLAG: dict[str, Any] = {"event": "incident", "criteria": ["level:Critical"], "actions": ["suppress-log"]}
KILL: dict[str, Any] = {"event": "incident", "criteria": ["process:nc"], "actions": ["agentKillProcess"]}
DEFAULTS = ["event", "security-event", "cve-report", "compliance", "admission-control", "deviation"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path / "s") as running:
        yield running


@pytest.fixture
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as client:
        yield client


def listed(client: httpx.Client, **params: Any) -> list[dict[str, Any]]:
    """All pages, small ones."""
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        page = client.get("/v1/rules", params={"limit": 2, **params, **more}).raise_for_status().json()
        found += page["items"]
        cursor = page["next"]
        if cursor is None:
            return found


def names(client: httpx.Client, **params: Any) -> list[str]:
    return [each["name"] for each in listed(client, **params) if each["default"] is None]


def insert(
    client: httpx.Client, *fields: dict[str, Any], after: int | None = None, **params: Any
) -> list[dict[str, Any]]:
    answer = client.post("/v1/rules", json={"rules": list(fields), "after": after}, params=params)
    assert answer.status_code == 200, answer.text
    changes: list[dict[str, Any]] = answer.json()
    return changes


def as_role(server: Live, admin: httpx.Client, role: str) -> httpx.Client:
    answer = admin.post("/v1/tokens", json={"role": role, "name": f"the-{role}"}).raise_for_status()
    return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {answer.json()['token']}"}, timeout=20)


def environment(server: Live, **more: str) -> dict[str, str]:
    said = {"QUELL_URL": server.url, "QUELL_TOKEN": server.token("admin")}
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | said | more


def quell(server: Live, *words: str, stdin: str = "", **more: str) -> Ran:
    return run(*words, url=server.url, token=server.token("admin"), stdin=stdin, environment=more)


# ---- REST


def test_the_order_is_what_was_asked_for_in_every_list_and_survives(server: Live, admin: httpx.Client) -> None:
    insert(admin, FLAG | {"name": "a"}, FLAG | {"name": "b"})
    insert(admin, FLAG | {"name": "top"}, after=0)
    insert(admin, FLAG | {"name": "above-b"}, after=-9)
    insert(admin, FLAG | {"name": "below-a"}, after=8)
    order = ["top", "a", "below-a", "above-b", "b"]
    assert names(admin) == order
    moved = admin.post("/v1/rules/8/move", json={"after": None}).json()
    assert (moved["verb"], moved["place"]) == ("moved", 11)
    order = ["top", "below-a", "above-b", "b", "a"]
    assert names(admin) == order
    assert [each["place"] for each in listed(admin)] == list(range(1, 12))
    documents = admin.get("/v1/documents", params={"kind": "rules"}).json()["items"]
    assert [each["metadata"]["name"] for each in documents if each["spec"]["id"] > 6] == order
    pages, cursor = [], None
    while True:
        page = admin.get("/v1/documents", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        pages += [each["metadata"]["name"] for each in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert [name for name in pages if not name.startswith("default")] == order
    exported = admin.get("/v1/documents/export").text
    assert [name for name in re.findall(r"^  name: (.+)$", exported, re.MULTILINE) if "default" not in name] == order
    shown = quell(server, "get", "rules").stdout
    assert [line.split()[1] for line in shown.splitlines()[1:] if "default" not in line] == order
    for after in (77, -77):
        assert admin.post("/v1/rules", json={"rule": FLAG, "after": after}).status_code == 404
        assert admin.post("/v1/rules/8/move", json={"after": after}).status_code == 404
    assert names(admin) == order


def test_the_order_is_there_after_a_restart_and_elsewhere(tmp_path: Path) -> None:
    with live(tmp_path / "s") as first, first.client() as admin:
        for serial in range(30):  # more than one gap holds
            insert(admin, FLAG | {"name": f"r{serial}"}, after=1)
        order = names(admin)
        assert order == [f"r{serial}" for serial in reversed(range(30))]
        exported = admin.get("/v1/documents/export").text
    with live(tmp_path / "s") as again, again.client() as admin:
        assert names(admin) == order
        assert len(listed(admin)) == 36, "the default rules are there once"
    with live(tmp_path / "t") as other, other.client() as admin:
        admin.post("/v1/documents", content=exported).raise_for_status()
        assert names(admin) == order


def test_one_rule_from_its_insertion_to_its_end(admin: httpx.Client) -> None:
    [change] = insert(admin, FLAG | {"name": "x", "group": "containers"}, dry_run=True)
    assert change["verb"] == "created"
    assert "+  group: containers" in change["diff"]
    assert names(admin) == []
    insert(admin, FLAG | {"name": "x", "group": "containers"})
    one = admin.get("/v1/rules/x")
    assert one.json() == admin.get("/v1/rules/8").json()
    assert one.json()["rule"] == {"id": 8, "name": "x", "group": "containers", **FLAG}
    assert (one.json()["status"], one.json()["enabled"], one.json()["quarantines"]) == ("Enforcing", True, [])
    version = one.headers["etag"]
    edited = admin.patch("/v1/rules/8", json={"group": None, "comment": "why"}, headers={"If-Match": version})
    assert (edited.status_code, edited.json()["verb"]) == (200, "configured")
    for request in (
        lambda headers: admin.patch("/v1/rules/8", json={"comment": "x"}, headers=headers),
        lambda headers: admin.post("/v1/rules/8/move", json={"after": 0}, headers=headers),
        lambda headers: admin.post("/v1/rules/8/disable", headers=headers),
        lambda headers: admin.post("/v1/rules/8/enable", headers=headers),
        lambda headers: admin.delete("/v1/rules/8", headers=headers),
        lambda headers: admin.post("/v1/rules", json={"rule": FLAG}, headers=headers),
        lambda headers: admin.post("/v1/rules/restore-defaults", headers=headers),
    ):
        assert request({"If-Match": version}).status_code == 412
    assert admin.post("/v1/rules/x/disable").json()["verb"] == "configured"
    assert admin.post("/v1/rules/x/disable").json()["verb"] == "unchanged"
    assert [each["name"] for each in listed(admin, enabled=True)] == []
    assert admin.post("/v1/rules/x/enable").json()["verb"] == "configured"
    assert admin.delete("/v1/rules/x", params={"dry_run": True}).json()["verb"] == "deleted"
    assert admin.delete("/v1/rules/8").json()["verb"] == "deleted"
    for path in ("/v1/rules/8", "/v1/rules/x"):
        assert admin.get(path).status_code == 404
        assert admin.patch(path, json={}).status_code == 404
        assert admin.delete(path).status_code == 404
    audited = admin.get("/v1/audit", params={"kind": "ResponseRule", "name": "x"}).json()["items"]
    assert [each["entry"]["verb"] for each in reversed(audited)] == ["create", "change", "change", "change", "delete"]


def test_a_move_says_where_in_the_audit_log(admin: httpx.Client) -> None:
    insert(admin, FLAG | {"name": "x"})
    admin.post("/v1/rules/x/move", json={"after": 2}).raise_for_status()
    [entry] = admin.get("/v1/audit", params={"verb": "move"}).json()["items"]
    assert (entry["entry"]["name"], entry["entry"]["note"]) == ("x", "from place 7 to 3 of 7")


def test_filters(admin: httpx.Client) -> None:
    insert(
        admin,
        FLAG | {"name": "a", "group": "containers"},
        {"name": "b", "event": "threat", "criteria": ["level:Info"], "actions": ["webhook"], "comment": "Über alles"},
        FLAG | {"name": "c", "disable": True},
        {"name": "d", "event": "benchmark", "criteria": ["number:5.12"], "actions": ["webhook"]},
    )
    for params, expected in (
        ({"category": "security-event"}, ["a", "b", "c"]),
        ({"category": "incident"}, ["a", "c"]),
        ({"category": "Benchmark"}, ["d"]),
        ({"group": "containers"}, ["a"]),
        ({"group": ""}, ["b", "c", "d"]),
        ({"enabled": False, "category": "incident"}, ["c"]),
        ({"text": "ÜBER"}, ["b"]),
        ({"text": "5.12"}, ["d"]),
        ({"name": "c"}, ["c"]),
        ({"name": "nobody"}, []),
    ):
        assert names(admin, **params) == expected, params
    refused = admin.get("/v1/rules", params={"category": "weather"})
    assert refused.status_code == 400
    assert "there are event, security-event" in refused.json()["detail"]


def test_what_is_wrong_is_told_with_its_place_and_nothing_is_inserted(admin: httpx.Client) -> None:
    answer = admin.post("/v1/rules", json={"rules": [FLAG, FLAG | {"criteria": ["lvel:Info"]}]})
    assert answer.status_code == 422
    [problem] = answer.json()["problems"]
    assert (problem["pointer"], problem["nearest"]) == ("/rules/1/criteria/0", "level")
    for body in ({}, {"rule": FLAG, "rules": [FLAG]}, {"rules": []}, {"rule": FLAG | {"webhooks": ["nowhere"]}}):
        assert admin.post("/v1/rules", json=body).status_code == 422, body
    for body in ({"rule": FLAG, "afer": 1}, {"rule": 5}, [], {"rule": FLAG, "after": "top"}):
        assert admin.post("/v1/rules", json=body).status_code == 400, body
    insert(admin, FLAG | {"name": "x"})
    assert admin.post("/v1/rules", json={"rule": FLAG | {"name": "x"}}).status_code == 409
    assert admin.patch("/v1/rules/x", json={"actions": ["agentKill"]}).json()["problems"][0]["pointer"] == "/actions/0"
    assert admin.patch("/v1/rules/x", json={"name": "y"}).status_code == 422
    assert names(admin) == ["x"]


def test_roles(server: Live, admin: httpx.Client) -> None:
    insert(admin, KILL | {"name": "armed"})
    with as_role(server, admin, "author") as author:
        [change] = insert(author, KILL | {"name": "mine"}, after=0)
        assert change["warnings"] == ["saved disabled, as agentKillProcess takes an operator to enable"]
        assert author.post("/v1/rules/mine/enable").status_code == 403
        assert author.post("/v1/rules/armed/move", json={"after": 0}).json()["verb"] == "moved"
        assert author.get("/v1/rules/armed").json()["enabled"]
        assert author.delete("/v1/rules/armed", params={"unquarantine": True}).status_code == 403
        assert author.post("/v1/rules/armed/disable", params={"unquarantine": True}).status_code == 403
        assert author.post("/v1/rules/armed/disable").status_code == 200
        assert author.post("/v1/rules/armed/enable").status_code == 403
        assert author.delete("/v1/rules/armed").status_code == 200
    with as_role(server, admin, "operator") as operator:
        assert operator.post("/v1/rules/mine/enable").json()["verb"] == "configured"
        assert operator.get("/v1/rules/mine").json()["changed_by"] == "token/the-operator"
    with as_role(server, admin, "viewer") as viewer:
        assert viewer.get("/v1/rules").status_code == 200
        assert viewer.get("/v1/rules/options").status_code == 200
        assert viewer.post("/v1/rules", json={"rule": FLAG}).status_code == 403


def test_what_a_source_owns(admin: httpx.Client) -> None:
    admin.post("/v1/documents", content=rule("a"), params={"source": "git/prod"}).raise_for_status()
    refused = admin.post("/v1/rules/a/disable")
    assert refused.status_code == 409
    assert "belongs to source git/prod" in refused.json()["detail"]
    assert admin.post("/v1/rules/a/disable", params={"source": "git/prod"}).json()["source"] == "git/prod"
    assert admin.post("/v1/rules/a/move", json={"after": 0}).json()["source"] == "git/prod"
    told = admin.patch("/v1/rules/a", json={"comment": "x"}, params={"take_over": True}).json()
    assert told["warnings"] == ["passes from source git/prod to no source"]


def test_default_rules_come_once(tmp_path: Path) -> None:
    with live(tmp_path / "s") as first, first.client() as admin:
        found = listed(admin)
        assert [(each["id"], each["name"]) for each in found] == [
            (number, f"default-{category}") for number, category in enumerate(DEFAULTS, start=1)
        ]
        assert {each["status"] for each in found} == {"Disabled"}
        admin.delete("/v1/rules/4").raise_for_status()
        admin.patch("/v1/rules/2", json={"comment": "mine"}).raise_for_status()
        admin.post("/v1/rules/1/enable").raise_for_status()
    with live(tmp_path / "s") as again, again.client() as admin:
        assert {each["id"]: each["default"] for each in listed(admin)} == {
            1: "enabled",
            2: "edited",
            3: "shipped",
            5: "shipped",
            6: "shipped",
        }
        told = admin.post("/v1/rules/restore-defaults", params={"reset": True, "dry_run": True}).json()
        assert {each["id"]: each["verb"] for each in told} == {1: "configured", 2: "configured", 4: "created"}
        assert len(listed(admin)) == 5
        assert [each["id"] for each in admin.post("/v1/rules/restore-defaults").json()] == [4]
        assert listed(admin)[-1]["id"] == 4
        admin.post("/v1/rules/restore-defaults", params={"reset": True}).raise_for_status()
        assert {each["default"] for each in listed(admin)} == {"shipped"}
        assert admin.post("/v1/rules/restore-defaults", params={"reset": True}).json() == []


def until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_options_know_what_is_there_and_what_was_seen(tmp_path: Path) -> None:
    def dynamic(client: httpx.Client, category: str) -> dict[str, dict[str, Any]]:
        [option] = client.get("/v1/rules/options", params={"category": category}).json()["categories"]
        return {each["name"]: each for each in option["dynamic"]}

    with live(tmp_path / "s") as first, first.client() as admin:
        admin.post("/v1/documents", content=group("shop") + webhook("soc", ", default: true")).raise_for_status()
        told = admin.get("/v1/rules/options").json()
        assert {"name": "shop", "kind": "defined"} in told["groups"]
        assert {"name": "containers", "kind": "reserved"} in told["groups"]
        assert told["webhooks"] == [{"name": "soc", "type": "JSON", "default": True}]
        fields = {"event": "incident", "criteria": ["name:Odd shell in pod"], "actions": ["webhook"]}
        [warned] = insert(admin, fields, dry_run=True)
        assert "neither the catalogue nor a detector's rules" in warned["warnings"][0]
        for body in (
            {"name": "WAF.shop.sqli", "category": "threat"},
            {
                "name": "Compliance.Container.Violation",
                "details": {"items": [{"number": "shop/rootfs", "failed": True}]},
            },
        ):
            admin.post("/v1/events", json=body).raise_for_status()
        falco = {
            "time": "2026-09-10T00:26:40.250000000Z",
            "rule": "Odd shell in pod",
            "priority": "Notice",
            "output": "x",
            "source": "syscall",
        }
        admin.post("/v1/events/falco", json=falco).raise_for_status()
        until(lambda: "shop/rootfs" in dynamic(admin, "compliance"))
        seen = dynamic(admin, "security-event")
        assert (seen["Odd shell in pod"]["origin"], seen["Odd shell in pod"]["source"]) == ("seen", "falco")
        assert seen["WAF.shop.sqli"]["kind"] == "threat"
        [known] = insert(admin, fields)
        assert known.get("warnings", []) == []
        assert admin.get("/v1/rules/options", params={"category": "x"}).status_code == 400
        file = tmp_path / "r.yaml"
        file.write_text(rule("r").replace("level:Critical", '"name:Odd shell in pod"'))
        done = quell(first, "apply", "-f", str(file))
        assert (done.returncode, done.stderr) == (0, "")
        assert "neither the catalogue" in quell(first, "validate", str(file)).stderr
    with live(tmp_path / "s") as again, again.client() as admin:
        assert "Odd shell in pod" in dynamic(admin, "security-event")


# ---- the command line


def test_the_command_line_does_all_of_it(server: Live, tmp_path: Path) -> None:
    def lines(*words: str, **more: str) -> list[str]:
        done = quell(server, "rules", *words, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    first = ("insert", "--name", "netcat", "-e", "incident", "-c", "{process: [nc, ncat]}")
    assert lines(*first, "-a", "agentKillProcess", "-a", "makeRedFlag:severity=high,impact=a shell", "--top") == [
        "ResponseRule netcat (id 8, place 1) created"
    ]
    assert lines(
        "insert", "-e", "cve-report", "-c", "cve-high:>5", "-a", "quarantine:ttl=1h,strict=true", "--below", "8"
    ) == ["ResponseRule rule-9 (id 9, place 2) created"]
    file = tmp_path / "more.yaml"
    file.write_text(rule("doc") + killing("doc2"))
    assert [line.split()[1] for line in lines("insert", "-f", str(file), "--above", "rule-9")] == ["doc", "doc2"]
    piped = quell(server, "rules", "insert", "-f", "-", stdin=json.dumps(FLAG | {"name": "piped", "limit": "3/1m"}))
    assert "piped (id 12, place 11) created" in piped.stdout
    order = [line.split()[2] for line in lines("list")[1:] if "default-" not in line]
    assert order == ["netcat", "doc", "doc2", "rule-9", "piped"]
    shown = json.loads("\n".join(lines("show", "netcat", "-o", "json")))
    assert shown["rule"]["actions"] == ["agentKillProcess", {"makeRedFlag": {"severity": "high", "impact": "a shell"}}]
    assert json.loads("\n".join(lines("show", "9", "-o", "json")))["rule"]["actions"] == [
        {"quarantine": {"ttl": "1h", "strict": True}}
    ]
    assert lines("edit", "netcat", "--comment", "x", "--clear", "criteria", "-g", "containers")[0] == (
        "ResponseRule netcat (id 8, place 1) configured"
    )
    assert "criteria" not in json.loads("\n".join(lines("show", "netcat", "-o", "json")))["rule"]
    assert lines("move", "netcat", "--below", "piped") == ["ResponseRule netcat (id 8, place 11) moved"]
    assert lines("move", "netcat", "--below", "piped") == ["ResponseRule netcat (id 8, place 11) unchanged"]
    assert lines("disable", "doc", "doc2") == [
        "ResponseRule doc (id 10, place 1) configured",
        "ResponseRule doc2 (id 11, place 2) configured",
    ]
    assert [line.split()[2] for line in lines("list", "--disabled", "--category", "incident")[1:]] == ["doc", "doc2"]
    assert lines("enable", "doc")[0].endswith("configured")
    assert lines("delete", "doc", "11", "-y") == [
        "ResponseRule doc (id 10) deleted",
        "ResponseRule doc2 (id 11) deleted",
    ]
    lines("delete", "default-compliance", "-y")
    assert lines("restore-defaults", "--dry-run")[0].endswith("created (dry run)")
    assert lines("restore-defaults") == ["ResponseRule default-compliance (id 4, place 9) created"]
    assert lines("restore-defaults") == []
    assert any(line.startswith("cve-high-with-fix") for line in lines("options", "cve-report"))


def test_the_editor_changes_what_is_left_in_it_and_keeps_what_is_refused(server: Live, admin: httpx.Client) -> None:
    insert(admin, FLAG | {"name": "x", "comment": "why", "cooldown": "5m"})

    def edit(command: str) -> subprocess.CompletedProcess[str]:
        return quell(server, "rules", "edit", "x", EDITOR=command, VISUAL="")

    assert "configured" in edit("sed -i -e s/Critical/Info/ -e /comment/d").stdout
    said = admin.get("/v1/rules/x").json()["rule"]
    assert (said["criteria"], said.get("comment"), said["cooldown"]) == (["level:Info"], None, "5m")
    same = edit("true")
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "nothing is changed\n")
    for command, code in (("sed -i s/Info/Inof/", 3), ("sed -i s/event:/event/", 3)):
        wrong = edit(command)
        assert wrong.returncode == code, wrong.stderr
        [kept] = re.findall(r"your text is still in (\S+)", wrong.stderr)
        assert "level:" in Path(kept).read_text()
        Path(kept).unlink()
    for command in ("false", "no-such-editor-here"):
        assert edit(command).returncode == 1
    assert admin.get("/v1/rules/x").json()["rule"] == said


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("show", "nobody"), 1, "there is no rule nobody"),
        (("move", "1"), 2, "--top, --bottom, --below RULE or --above RULE"),
        (("move", "1", "--top", "--below", "2"), 2, "say one of"),
        (("move", "1", "--below", "77"), 1, "there is no rule 77"),
        (("move", "1", "--below", "1"), 3, "cannot stand above or below itself"),
        (("insert", "-e", "event"), 2, "at least one --action"),
        (("insert", "-e", "event", "-a", "webhok"), 3, "did you mean: webhook"),
        (("insert", "-e", "event", "-a", "{webhook"), 3, "not YAML"),
        (("insert", "-f", "x", "-e", "event"), 2, "leave out what says parts"),
        (("insert", "-f", "/no/such/file"), 3, "No such file"),
    ],
)
def test_what_is_wrong_on_the_command_line(shared: Live, words: tuple[str, ...], code: int, told: str) -> None:
    done = quell(shared, "rules", *words)
    assert done.returncode == code, done.stderr
    assert told in " ".join(re.sub(r"[│╭╮╰╯─\n]", " ", done.stderr).split())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("rules") / "s") as running:
        yield running


# ---- completion


#: Asked for words it is the real one; run, it shows what it was given.
PROGRAM = """\
#!/bin/sh
[ -n "$_QUELL_COMPLETE" ] && exec {python} -m quell "$@"
printf '<%s>' "$@"
echo
"""


def completed(server: Live | None, folder: Path, text: str) -> list[str]:
    """The words of a command line after text and a tab, in a bash of its own. server None: no controller answers."""
    program = folder / "quell"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    if server is None:
        # Port 9 of loopback, where nobody listens.
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "QUELL_URL": "http://127.0.0.1:9"}
    else:
        env = environment(server)
    env |= {"PATH": f"{folder}:{os.environ['PATH']}", "TERM": "dumb", "INPUTRC": "/dev/null"}
    asked = env | {"_QUELL_COMPLETE": "source_bash"}
    source = subprocess.run([program], env=asked, capture_output=True, text=True, check=True).stdout
    script = folder / "rc.sh"
    script.write_text(f"{source}\nPS1='@ready@'\nPS0='@run@'\nunset PROMPT_COMMAND\nstty -echo\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("bash", ["bash", "--noprofile", "--rcfile", str(script), "-i"], env)  # noqa: S606 - a shell is what is tried
    try:
        _read(terminal, "@ready@")
        # Bash takes the newline once the tab is dealt with.
        os.write(terminal, f"{text}\t\n".encode())
        ran = _read(terminal, "@ready@").partition("@run@")[2]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    return re.findall(r"<([^<>]*)>", ran)


def _read(terminal: int, end: str) -> str:
    seen, deadline = "", time.monotonic() + 60
    while end not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096).decode()
    return seen


@pytest.mark.parametrize("reached", [True, False], ids=["with a controller", "without one"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("quell rules insert -e cve-r", "cve-report"),
        ("quell rules insert --event=admis", "--event=admission"),
        ("quell rules insert -e cve-report -c cve-med", "cve-medium:"),
        ("quell rules insert -e incident -c name:Host.Susp", "name:Host.Suspicious.Process"),
        ("quell rules insert -e cve-report -c report:reg", "report:registry"),
        ("quell rules insert -c level:Crit", "level:Critical"),
        ("quell rules insert -e admission -a makeRed", "makeRedFlag"),
        ("quell rules insert -e event -g conta", "containers"),
    ],
)
def test_bash_completes_from_the_tables(shared: Live, tmp_path: Path, reached: bool, text: str, expected: str) -> None:
    words = completed(shared if reached else None, tmp_path, text)
    assert words[-1].rstrip() == expected


def test_bash_completes_what_only_the_controller_knows(server: Live, admin: httpx.Client, tmp_path: Path) -> None:
    admin.post("/v1/documents", content=group("shop") + webhook("soc")).raise_for_status()
    admin.post("/v1/events", json={"name": "DLP.cards.visa", "category": "threat"}).raise_for_status()
    insert(admin, FLAG | {"name": "kill-netcat"})
    for text, expected in (
        ("quell rules insert -g sh", "shop"),
        ("quell rules insert -w so", "soc"),
        ("quell rules insert -c name:DLP.c", "name:DLP.cards.visa"),
        ("quell rules enable kill-n", "kill-netcat"),
    ):
        # It asks for no longer than a person waits for a tab, which a busy machine may need for the answer.
        deadline = time.monotonic() + 60
        while (found := completed(server, tmp_path, text)[-1].rstrip()) != expected:
            assert time.monotonic() < deadline, (text, found)


# ---- many


def test_ten_thousand_rules_are_listed_moved_and_inserted_among(server: Live, admin: httpx.Client) -> None:
    many = [FLAG | {"name": f"r{serial:05}", "criteria": [f"name:Own.{serial}"]} for serial in range(10_000)]
    answer = admin.post("/v1/rules", json={"rules": many}, timeout=300)
    assert answer.status_code == 200
    assert len(answer.json()) == 10_000
    for _ in range(15):
        admin.post("/v1/rules/r00000/move", json={"after": 5000}, timeout=60).raise_for_status()
        admin.post("/v1/rules/r00001/move", json={"after": 5000}, timeout=60).raise_for_status()
    assert admin.post("/v1/rules", json={"rule": FLAG | {"name": "x"}, "after": -5000}, timeout=60).status_code == 200
    page = admin.get("/v1/rules", params={"text": "own.9999"}).json()["items"]
    assert [each["name"] for each in page] == ["r09999"]
    order = names(admin, limit=1000)
    assert len(order) == 10_001
    assert order[order.index("x") + 1 : order.index("x") + 4] == ["r04992", "r00001", "r00000"]
