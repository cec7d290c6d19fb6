"""Policies, rulesets and deviations over HTTP and from the command line of a live controller."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import Live, live
from tests.system.command import quell as run

WEB = "c" * 64
POLICY = """
apiVersion: quell.dev/v1
kind: Policy
metadata: {name: web, type: container}
spec:
  mode: audit
  containerSelector: {matchFields: {image: "docker.io/library/nginx:*"}}
  processPolicy:
    - {id: nginx, name: nginx, exe: [/usr/sbin/nginx], euser: [root]}
  response:
    default: [{agentKillProcess: {}}, {makeRedFlag: {severity: high}}]
---
apiVersion: quell.dev/v1
kind: Policy
metadata: {name: prod, type: cluster}
spec:
  mode: enforce
  clusterSelector: {matchFields: {name: prod}}
  rulesets: [images]
  response: {default: [{makeRedFlag: {severity: high}}]}
"""
RULESET = """
apiVersion: quell.dev/v1
kind: Ruleset
metadata: {name: images, type: cluster}
spec:
  rules: [{target: "container::image", verb: allow, values: ["docker.io/library/*"]}]
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Live]:
    with live(tmp_path / "s") as running:
        yield running


@pytest.fixture
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client("admin") as client:
        yield client


def apply(client: httpx.Client, text: str) -> None:
    client.post("/v1/documents", content=text, headers={"Content-Type": "application/yaml"}).raise_for_status()


def observation(pid: int, name: str = "nc", **more: Any) -> dict[str, Any]:
    return {
        "seen": "executed",
        "time": time.time(),
        "subject": {
            "node": "n1",
            "container": {"id": WEB, "name": "web"},
            "image": "docker.io/library/nginx:1.27",
            "process": {
                "pid": pid,
                "start_ticks": pid,
                "boot_id": "b",
                "name": name,
                "exe": f"/usr/bin/{name}",
                "user": "root",
                "lineage": [["nginx", "/usr/sbin/nginx", "root", 100, 1], ["conmon", "/usr/bin/conmon", "root", 90, 1]],
            },
        },
        "inside": 1,
    } | more


def observe(client: httpx.Client, *found: Any) -> httpx.Response:
    return client.post("/v1/observations", json=list(found))


def token(server: Live, **wanted: Any) -> dict[str, str]:
    with server.client("admin") as admin:
        made = admin.post("/v1/tokens", json=wanted).raise_for_status().json()
    return {"Authorization": f"Bearer {made['token']}"}


def quell(server: Live, *words: str, role: str = "", check: bool = True, answer: str = "") -> str:
    done = run(*words, url=server.url, token=role or server.token("admin"), stdin=answer)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout + ("" if check else done.stderr)


# ---- policies and rulesets


def test_a_list_says_what_each_does_now_and_finds(admin: httpx.Client) -> None:
    apply(admin, POLICY)
    observe(admin, observation(1), observation(2), observation(3, "sh")).raise_for_status()
    page = admin.get("/v1/policies").raise_for_status()
    assert page.headers["etag"]
    found = {each["name"]: each for each in page.json()["items"]}
    assert [found[name]["status"] for name in ("prod", "web")] == ["Pending", "Auditing"]
    assert found["prod"]["notes"] == ["ruleset images is not there: the policy is Pending"]
    assert found["web"]["deviations"] == {"unique": 2, "total": 3}
    assert found["web"]["policy"]["processPolicy"][0]["id"] == "nginx"
    apply(admin, RULESET)
    assert admin.get("/v1/policies/prod").json()["status"] == "Enforcing"
    assert [each["name"] for each in admin.get("/v1/policies", params={"status": "Auditing"}).json()["items"]] == [
        "web"
    ]
    assert [each["name"] for each in admin.get("/v1/policies", params={"type": "cluster"}).json()["items"]] == ["prod"]
    first = admin.get("/v1/policies", params={"limit": 1}).json()
    assert [each["name"] for each in first["items"]] == ["prod"]
    assert [each["name"] for each in admin.get("/v1/policies", params={"cursor": first["next"]}).json()["items"]] == [
        "web"
    ]
    assert admin.get("/v1/policies/none").status_code == 404
    [ruleset] = admin.get("/v1/rulesets").json()["items"]
    assert (ruleset["name"], ruleset["policies"]) == ("images", ["prod"])
    assert admin.get("/v1/rulesets/images").json() == ruleset
    assert admin.get("/v1/rulesets/none").status_code == 404
    options = admin.get("/v1/policies/options").raise_for_status().json()
    assert options["rulesets"] == ["images"]
    assert [each["type"] for each in options["types"]] == ["container", "linux-service", "cluster", "trace"]


def test_a_policy_is_switched_for_the_version_that_was_read(server: Live, admin: httpx.Client) -> None:
    apply(admin, POLICY)
    read = admin.get("/v1/policies/web")
    dry = admin.post("/v1/policies/web/mode", params={"dry_run": True}, json={"mode": "enforce"}).json()
    assert "+  mode: enforce" in dry["diff"]
    assert admin.get("/v1/policies/web").json()["mode"] == "audit"
    done = admin.post(
        "/v1/policies/web/mode", json={"mode": "enforce"}, headers={"If-Match": read.headers["etag"]}
    ).raise_for_status()
    assert done.json()["verb"] == "configured"
    again = admin.post("/v1/policies/web/mode", json={"mode": "audit"}, headers={"If-Match": read.headers["etag"]})
    assert again.status_code == 412
    assert admin.post("/v1/policies/web/mode", json={"mode": "enforced"}).status_code in (400, 422)
    assert admin.post("/v1/policies/web/disable").json()["verb"] == "configured"
    assert admin.get("/v1/policies/web").json()["status"] == "Disabled"
    assert admin.post("/v1/policies/web/disable").json()["verb"] == "unchanged"
    # The audit log has each.
    entries = admin.get("/v1/audit", params={"limit": 10}).json()["items"]
    assert [each["entry"]["name"] for each in entries].count("web") == 3
    author = token(server, role="author", name="ann")
    refused = httpx.post(f"{server.url}/v1/policies/web/enable", headers=author)
    assert refused.status_code == 403
    assert "takes an operator to enable policy web" in refused.json()["detail"]
    admin.post("/v1/policies/web/enable").raise_for_status()
    refused = httpx.post(f"{server.url}/v1/policies/web/mode", headers=author, json={"mode": "audit"})
    assert refused.status_code == 403
    # What destroys nothing an author may switch.
    httpx.post(f"{server.url}/v1/policies/prod/mode", headers=author, json={"mode": "audit"}).raise_for_status()
    assert (
        httpx.post(f"{server.url}/v1/policies/prod/disable", headers=token(server, role="viewer", name="v")).status_code
        == 403
    )


def test_the_command_line(server: Live, admin: httpx.Client) -> None:
    apply(admin, POLICY + "---" + RULESET)
    observe(admin, observation(1), observation(2)).raise_for_status()
    rows = quell(server, "policy", "list").splitlines()
    assert [row.split()[:4] for row in rows[1:]] == [
        ["prod", "cluster", "Enforcing", "0/0"],
        ["web", "container", "Auditing", "1/2"],
    ]
    shown = quell(server, "policies", "show", "web")
    assert "deviations   1 different ones, found 2 times" in shown
    assert "processPolicy:" in shown
    assert "process nc of root (/usr/bin/nc)" in quell(server, "policies", "status", "web")
    assert "Policy web configured" in quell(server, "policies", "mode", "web", "enforce")
    assert "Policy web configured (dry run)" in quell(server, "policies", "disable", "web", "--dry-run")
    assert "Policy web configured" in quell(server, "policies", "disable", "web")
    assert "Policy web configured" in quell(server, "policies", "enable", "web")
    assert json.loads(quell(server, "policies", "show", "web", "-o", "json"))["status"] == "Enforcing"
    assert "container::image" in quell(server, "ruleset", "show", "images")
    assert quell(server, "rulesets", "list").splitlines()[1].split()[:4] == ["images", "cluster", "1", "prod"]
    [row] = quell(server, "deviations", "list").splitlines()[1:]
    assert row.split()[1:4] == ["web", "process", "2"]
    checksum = row.split()[0]
    shown = quell(server, "deviations", "show", checksum)
    assert "nc (2), container web, docker.io/library/nginx:1.27, on n1" in shown
    assert "what would allow it:\nprocessPolicy:" in shown
    assert json.loads(quell(server, "deviation", "list", "--policy", "web", "--what", "egress", "-o", "json")) == []
    assert "there is no deviation abcdef" in quell(server, "deviations", "show", "abcdef", check=False)
    assert "there is no policy none" in quell(server, "policies", "show", "none", check=False)
    assert "Policy web deleted" in quell(server, "policies", "delete", "web", answer="y\n")
    assert "scope: containerSelector" in quell(server, "policies", "options", "container")


# ---- merge, simulate, create


def test_what_is_merged_is_expected_from_then_on(server: Live, admin: httpx.Client) -> None:
    apply(admin, POLICY)
    observe(admin, observation(1), observation(2, "sh"), observation(3, "date")).raise_for_status()
    found = {each["subject"]["process"]["name"]: each for each in admin.get("/v1/deviations").json()["items"]}
    checksum = found["nc"]["checksum"]
    before = admin.get("/v1/policies/web").json()["policy"]
    path = "/v1/policies/web/merge"
    [dry] = admin.post(path, params={"dry_run": True}, json={"checksums": [checksum]}).raise_for_status().json()
    assert "+      exe:" in dry["diff"]
    assert "+      - /usr/bin/nc" in dry["diff"]
    assert quell(server, "policy", "diff", "web", "--deviation", checksum[:8]).splitlines() == dry["diff"].splitlines()
    assert admin.get("/v1/policies/web").json()["policy"] == before
    told = quell(server, "policy", "merge", "web", "-d", checksum[:8], answer="y\n")
    assert "Policy web configured (not yet)" in told
    assert "Policy web configured" in told.splitlines()[-1]
    [root] = admin.get("/v1/policies/web").json()["policy"]["processPolicy"]
    assert [each["name"] for each in root["children"]] == ["nc"]
    assert [each["status"] for each in admin.get("/v1/deviations", params={"checksum": checksum}).json()["items"]] == [
        "merged"
    ]
    observe(admin, observation(4)).raise_for_status()
    assert admin.get("/v1/policies/web").json()["deviations"] == {"unique": 2, "total": 2}
    # The same once more changes nothing.
    assert [each["verb"] for each in admin.post(path, json={"checksums": [checksum]}).json()] == ["unchanged"]
    assert "Policy web configured" in quell(server, "policies", "merge", "web", "--all", "--yes")
    assert admin.get("/v1/policies/web").json()["deviations"] == {"unique": 0, "total": 0}
    assert admin.post(path, json={"all": True}).status_code == 404
    assert admin.post(path, json={"checksums": ["none"]}).status_code == 404
    assert admin.post(path, json={}).status_code == 422
    assert "Aborted" in quell(server, "policies", "merge", "web", "-d", checksum, check=False, answer="n\n")
    # Who wrote the policy without it has the deviation back.
    apply(admin, POLICY)
    observe(admin, observation(5)).raise_for_status()
    until(lambda: admin.get("/v1/policies/web").json()["deviations"] == {"unique": 3, "total": 4})


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def test_what_a_policy_allows_by_now_is_irrelevant(admin: httpx.Client) -> None:
    apply(admin, POLICY)
    observe(admin, observation(1), observation(2, "sh")).raise_for_status()

    def statuses() -> dict[str, str]:
        found = admin.get("/v1/deviations").json()["items"]
        return {each["subject"]["process"]["name"]: each["status"] for each in found}

    nc = "euser: [root], children: [{id: nc, name: nc, exe: [/usr/bin/nc]}]}"
    apply(admin, POLICY.replace("euser: [root]}", nc))
    until(lambda: statuses() == {"nc": "irrelevant", "sh": "open"})
    apply(admin, POLICY)
    until(lambda: statuses() == {"nc": "open", "sh": "open"})


def test_an_author_does_not_widen_what_kills(server: Live, admin: httpx.Client) -> None:
    apply(admin, POLICY)
    observe(admin, observation(1)).raise_for_status()
    author = token(server, role="author", name="ann")
    path = f"{server.url}/v1/policies/web/merge"
    refused = httpx.post(path, headers=author, json={"all": True})
    assert refused.status_code == 403
    assert "takes an operator to merge into policy web" in refused.json()["detail"]
    admin.post("/v1/policies/web/disable").raise_for_status()
    httpx.post(path, headers=author, json={"all": True}).raise_for_status()


def test_a_simulation_says_what_would_be_done(server: Live, admin: httpx.Client) -> None:
    observe(admin, observation(9, "date")).raise_for_status()  # before there is the policy
    apply(admin, POLICY)
    observe(admin, *(observation(pid) for pid in (1, 2, 3)), observation(4, "sh")).raise_for_status()
    told = admin.get("/v1/policies/web/simulation", params={"mode": "enforce"}).raise_for_status().json()
    assert (told["now"], told["then"], told["deviations"]) == ("audit", "enforce", 3)
    rows = sorted(
        (each["message"].split()[1], each["count"], each["action"], each["now"]["reason"], each["then"]["status"])
        for each in told["differences"]
    )
    flag = "makeRedFlag (severity high)"
    assert rows == [
        ("date", 0, "agentKillProcess", "audit", "refused"),
        ("date", 0, flag, "audit", "granted"),
        ("nc", 3, "agentKillProcess", "audit", "refused"),
        ("nc", 3, flag, "audit", "granted"),
        ("sh", 1, "agentKillProcess", "audit", "refused"),
        ("sh", 1, flag, "audit", "granted"),
    ]
    kills = [each for each in told["differences"] if each["action"] == "agentKillProcess"]
    assert {each["then"]["reason"] for each in kills} == {"no-agent"}
    assert {each["target"] for each in kills} == {"nc (3) on n1", "sh (4) on n1", "any such date"}
    assert admin.get("/v1/policies/web").json()["mode"] == "audit"
    assert admin.get("/v1/flags").json()["items"] == []
    same = admin.get("/v1/policies/web/simulation", params={"mode": "audit"}).json()
    assert same["differences"] == []
    assert len(quell(server, "policy", "simulate", "web", "--mode", "enforce").splitlines()) == 7
    assert "no difference" in quell(server, "policy", "simulate", "web", "--mode", "audit", check=False)
    later = admin.get("/v1/policies/web/simulation", params={"since": "2100-01-01T00:00:00Z"}).json()
    assert later["deviations"] == 0
    assert json.loads(quell(server, "policy", "simulate", "web", "-o", "json"))["differences"] == told["differences"]


def test_a_policy_made_of_what_was_seen_expects_it(server: Live, admin: httpx.Client) -> None:
    observe(admin, observation(1), observation(2, "sh")).raise_for_status()
    [listed] = admin.get("/v1/fingerprints").raise_for_status().json()["items"]
    assert (listed["kind"], listed["name"], listed["processes"]) == ("image", "docker.io/library/nginx:1.27", 3)
    shown = admin.get("/v1/fingerprints/image/docker.io/library/nginx:1.27").raise_for_status().json()
    assert sorted(each["name"] for each in shown["roots"][0]["children"]) == ["nc", "sh"]
    assert "docker.io/library/nginx:1.27" in quell(server, "policies", "fingerprints")
    assert "nc  /usr/bin/nc  root" in quell(server, "policies", "fingerprints", "docker.io/library/nginx:1.27")
    text = quell(server, "policy", "create", "--from-observed", "--image", "docker.io/library/nginx:*")
    assert text.startswith("# image docker.io/library/nginx:1.27: 3 processes, seen 2 times")
    assert "name: nginx" in text
    assert "docker.io/library/nginx:*" in text
    apply(admin, text)
    observe(admin, observation(3), observation(4, "sh"), observation(5, "date")).raise_for_status()
    assert admin.get("/v1/policies/nginx").json()["deviations"] == {"unique": 1, "total": 1}
    told = quell(server, "policy", "create", "--from-observed", "--image", "docker.io/library/nginx:1.27", "--apply")
    assert told == "Policy nginx-2 created\n"
    assert "nothing was seen of image" in quell(
        server, "policy", "create", "--from-observed", "--image", "x", check=False
    )
    assert "say --from-observed" in quell(server, "policy", "create", "--image", "x", check=False)
    for wrong in ({}, {"image": "x", "cluster": "y"}):
        assert admin.get("/v1/fingerprints/policy", params=wrong).status_code == 422
    assert admin.get("/v1/fingerprints/policy", params={"service": "x"}).status_code == 404
    assert admin.get("/v1/fingerprints/policy", params={"cluster": "x"}).status_code == 404
    assert admin.get("/v1/fingerprints/image/x").status_code == 404
    assert admin.get("/v1/fingerprints/thing/x").status_code == 404


# ---- observations


def test_observations_become_deviations_once(server: Live, admin: httpx.Client) -> None:
    apply(admin, POLICY)
    assert observe(admin, observation(1), observation(1), observation(2)).json() == {"taken": 3, "rejected": []}
    [deviation] = admin.get("/v1/deviations").raise_for_status().json()["items"]
    assert (deviation["policy"], deviation["count"], deviation["events"]) == ("web", 2, 1)
    assert deviation["subject"]["process"]["pid"] == 2
    explained = admin.get(f"/v1/events/{deviation['event_id']}").raise_for_status().json()
    assert explained["event"]["source"] == "guardian"
    actions = explained["decision"]["actions"]
    assert [(each["status"], each["reason"]) for each in actions] == [("refused", "audit")] * 2
    assert all("would have been" in each["explanation"] for each in actions)
    assert admin.get("/v1/flags").json()["items"] == []
    told = quell(server, "explain", deviation["event_id"])
    assert "agentKillProcess" in told
    assert "refused (audit)" in told
    one = admin.get(f"/v1/deviations/web/{deviation['checksum']}").raise_for_status().json()
    assert one == deviation
    assert admin.get("/v1/deviations/web/none").status_code == 404
    assert admin.get("/v1/deviations", params={"checksum": deviation["checksum"][:6]}).json()["items"] == [deviation]
    assert admin.get("/v1/deviations", params={"since": "0s"}).json()["items"] == []
    assert admin.get("/v1/deviations", params={"since": "soon"}).status_code == 400
    assert admin.get("/v1/deviations", params={"status": ["merged", "irrelevant"]}).json()["items"] == []


def test_pages_of_deviations(admin: httpx.Client) -> None:
    apply(admin, POLICY)
    observe(admin, *(observation(pid, f"p{pid}") for pid in range(1, 8))).raise_for_status()
    found, cursor = [], None
    while True:
        params = {"limit": 3} | ({} if cursor is None else {"cursor": cursor})
        page = admin.get("/v1/deviations", params=params).raise_for_status().json()
        found += [each["subject"]["process"]["name"] for each in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == [f"p{pid}" for pid in range(7, 0, -1)]
    assert admin.get("/v1/deviations", params={"cursor": "x"}).status_code == 400


def test_deviations_that_others_found_are_counted_too(admin: httpx.Client) -> None:
    apply(admin, POLICY)
    record = {
        "schema": "event_deviation:workload:1.0.0",
        "time": time.time(),
        "policy_name": "web",
        "policy_type": "container",
        "checksum": "5f0c1d",
        "ref": "proc:n4Kd0QxT2hw:aX-9qA:4711",
        "deviation": {
            "kind": "GuardianDeviation",
            "metadata": {"type": "process"},
            "spec": {"processPolicy": [{"id": "nc_0", "name": "nc", "exe": ["/usr/bin/nc"], "euser": ["root"]}]},
        },
    }
    for identifier in ("dev:1", "dev:2", "dev:1"):
        admin.post("/v1/events/deviation", json=record | {"id": identifier}).raise_for_status()
    [deviation] = admin.get("/v1/deviations").json()["items"]
    assert (deviation["policy"], deviation["checksum"], deviation["count"], deviation["events"]) == (
        "web",
        "5f0c1d",
        2,
        2,
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seen": "dreamt"}, "$.seen"),
        ({"time": None}, "$.time"),
        ({"subject": {"node": "n1"}}, "Expected the process that did it - at `$.subject.process`"),
        ({"inside": 0, "subject": {"process": {"name": "nc"}}}, "Expected a container, a pod or a service"),
        ({"inside": 0, "subject": {"service": "s", "process": {"pid": 1}}}, "Expected the process's name"),
        ({"inside": 3}, "Expected at most the 2 of the lineage, got 3 - at `$.inside`"),
        ({"seen": "listening"}, "Expected protocol and port if it is listening"),
        ({"port": 80, "protocol": "TCP"}, "Expected protocol and port if it is listening, and only then"),
        ({"seen": "connected"}, "Expected a peer if it is connected"),
        ({"seen": "connected", "peer": {"direction": "egress", "ip": "here", "port": 1}}, "$.peer.ip"),
        ({"seeen": 1}, "seeen"),
    ],
)
def test_what_is_no_observation_is_refused_with_its_place(
    shared: tuple[Live, httpx.Client], change: dict[str, Any], reason: str
) -> None:
    _, admin = shared
    answer = admin.post("/v1/observations", json=observation(1) | change)
    assert answer.status_code == 400
    assert reason in answer.json()["detail"]
    both = observe(admin, observation(1), observation(2) | change)
    assert both.status_code == 202
    assert (both.json()["taken"], both.json()["rejected"][0]["line"]) == (1, 2)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, httpx.Client]]:
    with live(tmp_path_factory.mktemp("shared") / "s") as running, running.client("admin") as client:
        yield running, client


def test_tokens_of_ingest_observe_within_their_bounds(shared: tuple[Live, httpx.Client]) -> None:
    server, _ = shared
    url = f"{server.url}/v1/observations"
    of_n1 = token(server, role="ingest", name="n1", nodes=["n1"])
    assert httpx.post(url, json=observation(1), headers=of_n1).status_code == 202
    elsewhere = observation(1)
    elsewhere["subject"]["node"] = "n2"
    refused = httpx.post(url, json=elsewhere, headers=of_n1)
    assert refused.status_code == 403
    assert "the observation is about n2" in refused.json()["detail"]
    both = httpx.post(url, json=[observation(1), elsewhere], headers=of_n1)
    assert (both.status_code, both.json()["taken"]) == (202, 1)
    falco = token(server, role="ingest", name="falco", detectors=["falco"])
    assert httpx.post(url, json=observation(1), headers=falco).status_code == 403
    assert httpx.post(url, json=observation(1), headers=token(server, role="viewer", name="v")).status_code == 403
    assert httpx.post(url, json=observation(1)).status_code == 401
    assert httpx.post(f"{url}?x=1", json=observation(1), headers=of_n1).status_code == 400
    assert httpx.post(url, content=b"[{", headers=of_n1).status_code == 400
    lines = "\n".join(json.dumps(observation(pid)) for pid in (1, 2))
    taken = httpx.post(url, content=lines, headers=of_n1 | {"Content-Type": "application/x-ndjson"})
    assert taken.json()["taken"] == 2
