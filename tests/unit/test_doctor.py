"""What the doctor finds on folders, ports and settings made for that, and on this machine."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from quell.doctor import folder, kernel, machine, reach
from quell.doctor.examine import CHECKS, examine
from quell.doctor.finding import Case, Check, Found, Role, Verdict, ok
from quell.secrets import Secret

ROOT = Path(__file__).resolve().parents[2]
OK, WARNING, MISSING = Verdict.OK, Verdict.WARNING, Verdict.MISSING


@pytest.fixture
def case(tmp_path: Path) -> Case:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    return Case(
        roles=frozenset(Role), url="http://127.0.0.1:9", token=Secret(""), state=state, agent_state=state / "agent"
    )


def listing(where: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_size) for path in where.rglob("*"))


def test_the_libraries_are_those_of_the_project() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(machine.LIBRARIES) == {re.split(r"[\[<>=]", line)[0] for line in dependencies}


def test_every_check_understands_this_machine_and_says_why(case: Case) -> None:
    findings = examine(case, patience=60)
    assert [finding.check for finding in findings] == [check.name for check in CHECKS]
    for finding in findings:
        assert "could not be looked at" not in finding.what
        for line in (finding.what, finding.why):
            assert line
            assert "\n" not in line
        assert finding.why.endswith(".") or finding.why.startswith("It holds")


def test_the_role_says_what_is_looked_at(case: Case) -> None:
    seen = {
        role: {
            check.check for check in examine(_with_roles(case, role), _named("python", "port", "nftables"), patience=60)
        }
        for role in Role
    }
    assert seen == {Role.CONTROLLER: {"python", "port"}, Role.AGENT: {"python", "nftables"}}


def _with_roles(case: Case, role: Role) -> Case:
    return Case(
        roles=frozenset((role,)), url=case.url, token=case.token, state=case.state, agent_state=case.agent_state
    )


def _named(*names: str) -> list[Check]:
    return [check for check in CHECKS if check.name in names]


def test_a_check_that_hangs_or_fails_hides_no_other(case: Case) -> None:
    go_on = threading.Event()

    def hang(_case: Case) -> Found:
        go_on.wait(60)
        return ok("late", "late")

    def fail(_case: Case) -> Found:
        raise ValueError("Authorization: Bearer planted-secret")

    both = frozenset(Role)
    checks = [Check("hangs", both, hang), Check("fails", both, fail), Check("well", both, lambda _: ok("a", "b"))]
    findings = examine(case, checks, patience=0.3)
    go_on.set()
    assert [finding.verdict for finding in findings] == [WARNING, WARNING, OK]
    assert "no answer within" in findings[0].what
    assert "ValueError" in findings[1].what
    assert "planted-secret" not in findings[1].what


# --- folders


def test_a_folder_for_its_owner_alone(case: Case) -> None:
    assert folder.permissions(case).verdict is OK
    (case.state / "admin.token").write_text("x")
    (case.state / "admin.token").chmod(0o644)
    found = folder.permissions(case)
    assert (found.verdict, "admin.token" in found.what) == (MISSING, True)
    (case.state / "admin.token").chmod(0o600)
    case.state.chmod(0o755)
    assert folder.permissions(case).verdict is MISSING
    assert folder.agent_permissions(case).verdict is WARNING
    case.agent_state.write_text("no folder")
    assert folder.agent_permissions(case).verdict is MISSING


def test_what_is_tried_in_the_folder_is_gone_when_the_answer_is_there(case: Case) -> None:
    (case.state / "quell.db").write_bytes(b"x" * 100)
    (case.state / "quell.db").chmod(0o600)
    before = listing(case.state.parent)
    for look in (folder.file_system, folder.latency, folder.room, folder.permissions):
        assert look(case).verdict in (OK, WARNING)
    assert listing(case.state.parent) == before


def test_a_folder_that_is_not_there_is_judged_by_what_is_above_it(case: Case) -> None:
    case.state.rmdir()
    assert folder.permissions(case).verdict is WARNING
    assert folder.latency(case).verdict in (OK, WARNING)
    assert "fdatasync takes" in folder.latency(case).what
    assert not case.state.exists()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_small_file_system_in_memory(case: Case) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(case.state)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"this machine cannot mount: {mounted.stderr.strip()}")
    try:
        case.state.chmod(0o700)
        room, system = folder.room(case), folder.file_system(case)
        assert (room.verdict, system.verdict) == (MISSING, WARNING)
        assert "lost when the machine stops" in system.what
    finally:
        subprocess.run(["umount", str(case.state)], check=True)


# --- the kernel


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs what only root has")
def test_root_on_a_machine_of_its_own_has_all(case: Case) -> None:
    before = _namespaces()
    for look in (kernel.version, kernel.pidfd, kernel.capabilities, kernel.namespaces, kernel.connector):
        assert look(case).verdict is OK, look(case)
    assert kernel.nftables(case).verdict is OK
    # The thread that was there goes home after it has told.
    deadline = time.monotonic() + 20
    while not _namespaces() <= before:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _namespaces() -> set[str]:
    """Network namespaces that a thread or an open file of this process keeps alive."""
    links = [thread / "ns" / "net" for thread in Path("/proc/self/task").iterdir()]
    found = set()
    for link in [*links, *Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(FileNotFoundError):  # the one by which the folder was read
            if (target := str(link.readlink())).startswith("net:"):
                found.add(target)
    return found


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="needs setpriv to give root up")
def test_without_privileges_it_says_what_an_agent_could_not_do() -> None:
    script = """
from pathlib import Path
from quell.doctor import kernel
from quell.doctor.finding import Case
from quell.secrets import Secret
case = Case(roles=frozenset(), url="", token=Secret(""), state=Path("/"), agent_state=Path("/"))
for look in (kernel.capabilities, kernel.nftables, kernel.pidfd, kernel.connector):
    print(look(case).verdict.value, look(case).what, sep="|")
"""
    unprivileged = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search")
    ambient = ("--ambient-caps=+dac_read_search",)
    prefix = (*unprivileged, *ambient) if os.geteuid() == 0 else ()
    source = os.pathsep.join((str(ROOT / "src"), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [*prefix, sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": source},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    verdicts = [line.split("|") for line in done.stdout.splitlines()]
    # Since Linux 6.6 anybody may listen to the process connector.
    assert [verdict for verdict, _ in verdicts[:3]] == ["missing", "missing", "ok"]
    assert "CAP_NET_ADMIN (quarantine" in verdicts[0][1]


# --- settings, ports, clocks


def test_settings_that_no_controller_takes(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reach.settings(case).verdict is OK
    monkeypatch.setenv("QUELL_SERVER_PROT", "7341")
    found = reach.settings(case)
    assert (found.verdict, "QUELL_SERVER_PROT" in found.what) == (MISSING, True)
    assert reach.port(case).verdict is WARNING


def test_a_port_that_another_program_has(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        # It is not asked to answer: nobody accepts, so a look at it must end by itself.
        monkeypatch.setenv("QUELL_SERVER_PORT", str(port))
        found = reach.port(case)
        assert found.verdict is MISSING
        assert f"({os.getpid()})" in found.what
    assert reach.port(case).verdict is OK
    # The look did not keep it.
    with socket.create_server(("127.0.0.1", port)):
        pass


class _Clock(http.server.BaseHTTPRequestHandler):
    """Answers /healthz as a controller whose clock is ahead by so many seconds."""

    ahead = 0.0

    def do_GET(self) -> None:
        body = json.dumps({"status": "alive", "time": time.time() + self.ahead, "uptime": 1.0}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parameter's name in the library
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Clock)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("ahead", "verdict"), [(0.0, OK), (-30.0, MISSING), (3600.0, MISSING)])
def test_clocks_that_are_apart(
    case: Case, elsewhere: str, monkeypatch: pytest.MonkeyPatch, ahead: float, verdict: Verdict
) -> None:
    monkeypatch.setattr(_Clock, "ahead", ahead)
    there = Case(roles=case.roles, url=elsewhere, token=case.token, state=case.state, agent_state=case.agent_state)
    assert reach.skew(there).verdict is verdict
    # It answers, and yet it is no controller: it does not say whether it is ready.
    assert reach.controller(there).verdict is MISSING


def test_nobody_there(case: Case) -> None:
    assert reach.controller(case).verdict is MISSING
    assert reach.controller(_with_roles(case, Role.CONTROLLER)).verdict is WARNING
    assert reach.token(case).verdict is WARNING
    assert reach.skew(case).verdict is WARNING
    assert reach.link(case).verdict is WARNING


# --- as a whole


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quell", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_command_prints_and_its_exit_code_says_whether_something_is_missing(case: Case) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        arguments = (
            "--state",
            str(case.state),
            "--url",
            "http://127.0.0.1:9",
            "doctor",
            "--role",
            "controller",
            "--timeout",
            "50",
        )
        taken = run(*arguments, "-o", "json", QUELL_SERVER_PORT=port)
    assert taken.returncode == 1, taken.stderr
    found = {finding["check"]: finding for finding in json.loads(taken.stdout)}
    assert found["port"]["verdict"] == "missing"
    assert set(found["port"]) == {"role", "check", "verdict", "what", "why"}
    assert "nftables" not in found
    free = run(*arguments, QUELL_SERVER_PORT=port)
    assert free.returncode == 0, free.stdout
    assert re.search(rf"^ok +controller +port +127.0.0.1:{port} is free", free.stdout, re.MULTILINE)
    assert run(*arguments, "-o", "yaml", QUELL_SERVER_PORT=port).stdout.startswith("- role: both\n  check: python\n")
    assert listing(case.state) == []


def test_importing_it_starts_nothing_and_needs_no_server() -> None:
    script = (
        "import sys, threading, quell.doctor.examine;"
        "print(threading.active_count(), [n for n in ('litestar', 'uvicorn', 'quell.serve') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "1 []\n"
