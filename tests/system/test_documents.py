"""Documents over HTTP and from the command line: sources, prune, versions, diffs, secrets, roles, and the audit log."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml
from live import Live, live
from tests.plans import group, killing, rule, webhook
from tests.system.command import Ran
from tests.system.command import quell as run

from quell.model.audit import AuditEntry

SECRET = "whsec_" + "S" * 32
CREDENTIALS = f", secret: {SECRET}, headers: {{Authorization: Bearer hunter2}}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path / "s") as running:
        yield running


@pytest.fixture
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as client:
        yield client


def as_role(server: Live, admin: httpx.Client, role: str) -> httpx.Client:
    answer = admin.post("/v1/tokens", json={"role": role, "name": f"the-{role}"}).raise_for_status()
    return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {answer.json()['token']}"}, timeout=20)


def apply(client: httpx.Client, text: str, **params: Any) -> dict[str, dict[str, Any]]:
    answer = client.post("/v1/documents", content=text, params=params)
    assert answer.status_code == 200, answer.text
    return {f"{change['kind']} {change['name']}": change for change in answer.json()}


def verbs(changes: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: change["verb"] for name, change in changes.items()}


def names(client: httpx.Client, **params: Any) -> list[str]:
    found = client.get("/v1/documents", params=params).raise_for_status().json()["items"]
    named = [document["metadata"]["name"] for document in found]
    return [name for name in named if not name.startswith("default-")]


def audited(server: Live) -> list[AuditEntry]:
    """What the audit log has about documents, oldest first, the default rules apart."""
    rows = server.controller.store.read(
        lambda connection: connection.execute("SELECT body FROM audit ORDER BY n").fetchall()
    )
    entries = [msgspec.json.decode(body, type=AuditEntry) for (body,) in rows]
    kinds = ("ResponseRule", "Group", "Webhook", "Policy", "Ruleset", "documents")
    return [entry for entry in entries if entry.kind in kinds and str(entry.actor) != "system/quell"]


def quell(server: Live, *words: str, stdin: str = "") -> Ran:
    return run(*words, url=server.url, token=server.token("admin"), stdin=stdin)


def test_a_folder_is_the_truth_about_its_source(server: Live, admin: httpx.Client) -> None:
    both = {"source": "git/prod", "prune": True}
    apply(admin, rule("by-hand"))
    assert verbs(apply(admin, group("g") + rule("a", ", group: g") + rule("b"), **both)) == {
        "Group g": "created",
        "ResponseRule a": "created",
        "ResponseRule b": "created",
    }
    told = apply(admin, rule("b"), **both, dry_run=True)
    assert verbs(told) == {"ResponseRule b": "unchanged", "ResponseRule a": "deleted", "Group g": "deleted"}
    assert "-  name: a\n" in told["ResponseRule a"]["diff"]
    assert set(names(admin)) == {"by-hand", "g", "a", "b"}
    assert verbs(apply(admin, rule("b"), **both)) == verbs(told)
    assert set(names(admin)) == {"by-hand", "b"}
    assert names(admin, source="git/prod") == ["b"]
    for text, params, status in ((b"", both, 422), (rule("b"), {"prune": True}, 422), (rule("by-hand"), both, 200)):
        assert admin.post("/v1/documents", content=text, params=params).status_code == status


def test_what_another_source_owns_is_left_alone(admin: httpx.Client) -> None:
    apply(admin, rule("a"), source="git/prod")
    for params in ({}, {"source": "git/other"}):
        refused = admin.post("/v1/documents", content=rule("a", ", comment: mine"), params=params)
        assert refused.status_code == 409
        assert "belongs to source git/prod" in refused.json()["detail"]
    apply(admin, rule("a", ", comment: mine"), source="git/other", take_over=True)
    [document] = admin.get("/v1/documents", params={"name": "a"}).json()["items"]
    assert document["status"]["source"] == "git/other"


def test_the_same_again_changes_nothing_and_says_nothing(server: Live, admin: httpx.Client) -> None:
    text = group("g") + rule("a", ", group: g") + webhook("w", CREDENTIALS)
    apply(admin, text, source="git/prod")
    before, revision = audited(server), admin.get("/v1/documents").headers["etag"]
    assert set(verbs(apply(admin, text, source="git/prod", prune=True)).values()) == {"unchanged"}
    shown = admin.get("/v1/documents/export").text
    assert set(verbs(apply(admin, shown)).values()) == {"unchanged"}, "an export without secrets stands for the same"
    assert admin.get("/v1/documents").headers["etag"] == revision
    assert audited(server) == before


def test_one_wrong_document_and_nothing_is_applied(server: Live, admin: httpx.Client) -> None:
    answer = admin.post("/v1/documents", content=rule("good") + "\n" + rule("bad", ", webhooks: [nowhere]"))
    assert answer.status_code == 422
    [problem] = answer.json()["problems"]
    assert (problem["path"], problem["pointer"], problem["line"]) == ("spec.webhooks[0]", "/spec/webhooks/0", 4)
    assert problem["message"].startswith("ResponseRule bad names the webhook")
    assert names(admin) == []
    assert audited(server) == []


def test_versions(admin: httpx.Client) -> None:
    apply(admin, rule("a"))
    listed = admin.get("/v1/documents").headers["etag"]
    one = admin.get("/v1/documents/rule/a")
    assert (one.headers["etag"], one.json()["status"]["revision"]) == ('"2"', 2)
    changed = admin.put("/v1/documents/rule/a", content=rule("a", ", comment: x"), headers={"If-Match": '"2"'})
    assert (changed.status_code, changed.headers["etag"], changed.json()["verb"]) == (200, '"3"', "configured")
    for answer in (
        admin.put("/v1/documents/rule/a", content=rule("a", ", comment: y"), headers={"If-Match": '"2"'}),
        admin.delete("/v1/documents/rule/a", headers={"If-Match": '"2"'}),
        admin.post("/v1/documents", content=rule("b"), headers={"If-Match": listed}),
    ):
        assert (answer.status_code, answer.headers["etag"]) == (412, '"3"')
        assert 'at version "3"' in answer.json()["detail"]
    assert admin.put("/v1/documents/rule/b", content=rule("b"), headers={"If-Match": "*"}).status_code == 412
    assert names(admin) == ["a"]
    document = admin.get("/v1/documents/rule/a").json()
    assert document["spec"]["comment"] == "x"
    # A change of another document leaves this one's version as it is.
    apply(admin, rule("b"), dry_run=False)
    assert admin.get("/v1/documents/rule/a").headers["etag"] == '"3"'
    document["spec"]["comment"] = "as JSON, with its status"
    again = admin.put("/v1/documents/rule/a", json=document, headers={"If-Match": '"3"'})
    assert again.json()["verb"] == "configured"
    assert admin.delete("/v1/documents/rule/a", headers={"If-Match": again.headers["etag"]}).status_code == 200
    assert admin.get("/v1/documents/rule/a").status_code == 404


@pytest.mark.parametrize("text", [rule("other"), rule("a") + rule("b"), group("a"), ""])
def test_a_put_is_of_the_document_that_its_path_names(admin: httpx.Client, text: str) -> None:
    answer = admin.put("/v1/documents/rule/a", content=text)
    assert answer.status_code == 422
    expected = "expected ResponseRule a" if text else "there is no document in the input"
    assert expected in answer.json()["problems"][0]["message"]
    assert names(admin) == []


def test_applications_at_the_same_time_come_one_after_the_other(server: Live, admin: httpx.Client) -> None:
    """Each of them is whole, and with the version that all of them read only one is made."""
    apply(admin, rule("seed"))
    version = admin.get("/v1/documents").headers["etag"]
    statuses: list[int] = []

    def go(number: int) -> None:
        text = "".join(rule(f"r{place}", f", comment: by {number}") for place in range(20))
        with server.client("admin") as client:
            statuses.append(client.post("/v1/documents", content=text, headers={"If-Match": version}).status_code)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 412, 412, 412, 412, 412]
    found = admin.get("/v1/documents", params={"kind": "rules"}).json()["items"]
    assert len({document["spec"]["comment"] for document in found if "comment" in document["spec"]}) == 1


def test_what_a_dry_run_says_is_what_is_done(server: Live, admin: httpx.Client) -> None:
    apply(admin, group("g") + rule("a", ", group: g"), source="s")
    text = group("g", "y") + rule("new")
    dry = apply(admin, text, source="s", prune=True, dry_run=True)
    assert "+    value: y\n" in dry["Group g"]["diff"]
    assert re.search(r"^--- /dev/null\n\+\+\+ ResponseRule/new\n", dry["ResponseRule new"]["diff"])
    done = apply(admin, text, source="s", prune=True)
    assert not any(change.get("diff") for change in done.values())
    assert {name: {**change, "diff": ""} for name, change in dry.items()} == {
        name: {**change, "diff": ""} for name, change in done.items()
    }


def test_secrets_are_for_admins_who_ask(server: Live, admin: httpx.Client) -> None:
    apply(admin, webhook("w", CREDENTIALS))
    changed = apply(admin, webhook("w", CREDENTIALS.replace("hunter2", "hunter3")), dry_run=True)["Webhook w"]
    assert "Authorization: (secret, changed)" in changed["diff"]
    everything = json.dumps([msgspec.to_builtins(entry) for entry in audited(server)]) + json.dumps(changed)
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(as_role(server, admin, role)) for role in ("viewer", "author", "operator")]
        for client in (admin, *others):
            for path in ("/v1/documents", "/v1/documents/export", "/v1/documents/webhook/w"):
                answer = client.get(path)
                assert "(secret)" in answer.text
                everything += answer.text
        for client in others:
            for path in ("/v1/documents/export", "/v1/documents/webhook/w"):
                assert client.get(path, params={"secrets": "true"}).status_code == 403
    assert SECRET not in everything
    assert "hunter" not in everything
    whole = admin.get("/v1/documents/export", params={"secrets": "true"})
    assert SECRET in whole.text
    assert "hunter2" in whole.text
    last = audited(server)[-1]
    assert (last.verb, last.kind, last.note, str(last.actor)) == (
        "export",
        "documents",
        "with secrets",
        "token/first-admin",
    )


def test_a_stolen_author_sends_no_secret_elsewhere(server: Live, admin: httpx.Client) -> None:
    apply(admin, webhook("w", CREDENTIALS))
    with as_role(server, admin, "author") as author:
        document = author.get("/v1/documents/webhook/w").json()
        document["spec"]["url"] = "https://thief.example.org/in"
        refused = author.put("/v1/documents/webhook/w", json=document)
        assert refused.status_code == 422
        assert {problem["path"] for problem in refused.json()["problems"]} == {
            "spec.secret",
            "spec.headers.Authorization",
        }


def test_an_authors_destructive_rules_are_saved_disabled(server: Live, admin: httpx.Client) -> None:
    with as_role(server, admin, "author") as author:
        change = apply(author, killing("k"))["ResponseRule k"]
        assert change["warnings"] == ["saved disabled, as agentKillProcess takes an operator to enable"]
        assert author.get("/v1/documents/rule/k").json()["spec"]["disable"] is True
        with as_role(server, admin, "operator") as operator:
            assert "warnings" not in apply(operator, killing("k", ", group: g") + group("g"))["ResponseRule k"]
        refused = author.put("/v1/documents/group/g", content=group("g", "y"))
        assert refused.status_code == 403
        assert "used by ResponseRule k, enabled and destructive" in refused.json()["detail"]
        assert author.delete("/v1/documents/rule/k", params={"unquarantine": "true"}).status_code == 403
        assert author.delete("/v1/documents/rule/k").status_code == 200


def test_each_change_is_in_the_audit_log(server: Live, admin: httpx.Client) -> None:
    apply(admin, rule("a") + webhook("w", CREDENTIALS), source="git/prod")
    apply(admin, rule("a", ", comment: x"), source="git/other", take_over=True)
    apply(admin, webhook("w", CREDENTIALS.replace("SSS", "TTT")), source="git/prod")
    apply(admin, rule("c"), source="git/other", prune=True)
    admin.delete("/v1/documents/webhook/w").raise_for_status()
    entries = audited(server)
    assert [(entry.verb, entry.kind, entry.name, entry.note) for entry in entries] == [
        ("create", "Webhook", "w", "source git/prod"),
        ("create", "ResponseRule", "a", "source git/prod"),
        ("change", "ResponseRule", "a", "source git/other; taken from source git/prod"),
        ("change", "Webhook", "w", "source git/prod; secret changed"),
        ("create", "ResponseRule", "c", "source git/other"),
        ("delete", "ResponseRule", "a", "source git/other"),
        ("delete", "Webhook", "w", "source git/prod"),
    ]
    assert {str(entry.actor) for entry in entries} == {"token/first-admin"}
    changed = entries[2]
    assert "comment" not in changed.before["spec"]
    assert changed.after["spec"]["comment"] == "x"
    assert (entries[0].before, entries[-1].after) == (None, None)


def test_times_and_authors_survive_a_restart(tmp_path: Path) -> None:
    with live(tmp_path / "s") as running, running.client("admin") as admin:
        apply(admin, rule("a"), source="git/prod")
        first = admin.get("/v1/documents/rule/a").json()
    with live(tmp_path / "s") as running, running.client("admin") as admin:
        assert admin.get("/v1/documents/rule/a").json() == first
        assert first["status"]["changed_by"] == "token/first-admin"
        assert first["status"]["created"] == first["status"]["changed"] > 1e9
        assert verbs(apply(admin, rule("a"), source="git/prod")) == {"ResponseRule a": "unchanged"}


def test_the_command_line(server: Live, tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "1.yaml").write_text("# first\n" + rule("a"))
    (folder / "2.yaml").write_text(rule("b") + webhook("w", CREDENTIALS))
    source = ("-f", str(folder), "--source", "git/prod", "--prune")
    dry = quell(server, "apply", *source, "--dry-run")
    assert "ResponseRule a (id 8) created (dry run)" in dry.stdout
    assert "+  - level:Critical" in dry.stdout
    assert "Webhook w created" in quell(server, "apply", *source).stdout
    assert quell(server, "apply", *source).stdout.count("unchanged") == 3
    (folder / "2.yaml").write_text("\n\n" + rule("b", ", group: webb") + group("web"))
    refused = quell(server, "apply", *source)
    assert refused.returncode == 3
    assert f"{folder / '2.yaml'}:3:" in refused.stderr
    assert "did you mean: web" in refused.stderr
    (folder / "2.yaml").write_text(rule("b"))
    data = json.loads(quell(server, "apply", *source, "--dry-run", "-o", "json").stdout)
    assert [(change["name"], change["verb"]) for change in data] == [
        ("a", "unchanged"),
        ("b", "unchanged"),
        ("w", "deleted"),
    ]
    assert "-  secret: (secret)" in data[2]["diff"]
    assert quell(server, "apply", "-f", str(folder), "--prune").returncode == 2
    taken = quell(server, "apply", "-f", str(folder), "--source", "other")
    assert taken.returncode == 1
    assert "belongs to source git/prod" in taken.stderr
    assert quell(server, "apply", "-f", str(folder), "--source", "other", "--take-over").returncode == 0


def test_exports_and_get_import_to_the_same(server: Live, tmp_path: Path) -> None:
    text = webhook("w", CREDENTIALS) + group("g/h") + rule("a", ", group: g/h, webhooks: [w]") + killing("k")
    with server.client("admin") as admin:
        apply(admin, text)
        revision = admin.get("/v1/documents").headers["etag"]
        for kind in ("rules", "groups", "webhooks"):
            shown = quell(server, "get", kind, "-o", "yaml").stdout
            assert "revision:" in shown
            assert set(verbs(apply(admin, shown)).values()) == {"unchanged"}
        whole = quell(server, "export").stdout
        assert "revision:" not in whole
        assert quell(server, "export", "-o", f"{tmp_path / 'out'}/").stdout == f"10 documents in {tmp_path / 'out'}/\n"
        files = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert files == ["group-g%2Fh.yaml", "responserules.yaml", "webhook-w.yaml"]
        assert quell(server, "apply", "-f", str(tmp_path / "out")).stdout.count("unchanged") == 10
        assert admin.get("/v1/documents").headers["etag"] == revision
        only = quell(server, "export", "--kind", "groups").stdout
        assert [document["kind"] for document in yaml.safe_load_all(only)] == ["Group"]
    secrets = tmp_path / "secrets.yaml"
    assert quell(server, "export", "--secrets", "-o", str(secrets)).returncode == 0
    assert secrets.stat().st_mode & 0o777 == 0o600
    with live(tmp_path / "t") as other:
        lacking = quell(other, "apply", "-f", str(tmp_path / "out"))
        assert lacking.returncode == 3
        assert "stands for what is not shown, and there is none in force: write it" in lacking.stderr
        assert quell(other, "apply", "-f", str(secrets)).returncode == 0
        assert quell(other, "export", "--secrets").stdout == secrets.read_text()
    (tmp_path / "out" / "old.yaml").write_text(rule("old"))
    strange = quell(server, "export", "-o", str(tmp_path / "out"))
    assert strange.returncode == 1
    assert "old.yaml" in strange.stderr
