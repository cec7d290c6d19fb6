"""Policies learned from real services: a web server, a database, and a service that forks. SEMANTICS section 5.

Each runs in a control group of its own, named as a service, and in a network namespace; its clients are in another. After
learning, a restart and a rotation of its logs give no deviation, and a new program gives exactly one, however often it runs.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from guarded import SECONDS, Guarded
from msgspec import Struct
from running import wait_for
from tests.system.workloads import Service, joined_namespaces, service

HERE = "10.77.0.1"
POSTGRES = next((str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"))), "")
NEEDED = ("nginx", "logrotate", "ip", "setpriv")
MISSING = [name for name in NEEDED if shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None]

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="services in control groups of their own need root"),
    pytest.mark.skipif(bool(MISSING or not POSTGRES), reason=f"not installed: {', '.join(MISSING) or 'postgresql'}"),
]

NGINX = """
daemon off;
user www-data;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log {folder}/access.log;
  server {{ listen {here}:80; location / {{ return 200 "hello\\n"; }} }}
}}
"""
#: Two workers that give up their rights, answer over a socket that they share, and run a program for each answer.
FORKING = """
import os, signal, socket, subprocess, sys
log = sys.argv[1]
def reopen(*_):
    with open(log, "a") as file:
        file.write("opened again\\n")
signal.signal(signal.SIGHUP, reopen)
reopen()
with open(log + ".pid", "w") as file:
    file.write(str(os.getpid()))
listening = socket.create_server(("10.77.0.1", 8000))
for _ in range(2):
    if os.fork() == 0:
        os.setgid(33)
        os.setuid(33)
        while True:
            connection, _ = listening.accept()
            connection.recv(100)
            connection.sendall(subprocess.run(["date"], capture_output=True).stdout)
            connection.close()
while True:
    signal.pause()
"""
ROTATE = """
{log} {{
  su root root
  rotate 1
  nocompress
  missingok
  postrotate
    {command}
  endscript
}}
"""


class App(Struct, frozen=True):
    """words: what is executed in the control group, as this user. works: a client's request, from the other namespace."""

    user: str

    words: tuple[str, ...]
    port: int
    works: Callable[[str], None]
    log: Path
    #: How it is told that its log was moved away.
    reopen: str
    #: Process and user of something that forks and executes nothing.
    worker: tuple[str, str]


def fetch(port: int) -> Callable[[str], None]:
    def work(netns: str) -> None:
        code = f"import socket; s = socket.create_connection(('{HERE}', {port}), 5); s.send(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(s.recv(100))"
        client(netns, sys.executable, "-c", code)

    return work


def client(netns: str, *words: str) -> None:
    done = subprocess.run(
        ["ip", "netns", "exec", netns, *words], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr


def as_user(name: str) -> tuple[str, ...]:
    return ("setpriv", f"--reuid={name}", f"--regid={name}", "--clear-groups")


def nginx(folder: Path) -> App:
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, here=HERE))
    return App(
        user="root",
        port=80,
        words=("/usr/sbin/nginx", "-c", str(folder / "nginx.conf")),
        works=fetch(80),
        log=folder / "access.log",
        reopen=f"kill -USR1 $(cat {folder}/nginx.pid)",
        worker=("nginx", "www-data"),
    )


def postgres(folder: Path) -> App:
    owner = pwd.getpwnam("postgres")
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    as_owner = as_user("postgres")
    data = folder / "data"
    made = subprocess.run(
        [*as_owner, f"{POSTGRES}/initdb", "-D", str(data), "-A", "trust", "--no-sync"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    with (data / "pg_hba.conf").open("a") as file:
        file.write("host all all 10.77.0.0/24 trust\n")
    options = {
        "listen_addresses": HERE,
        "unix_socket_directories": str(folder),
        "logging_collector": "on",
        "log_directory": str(folder),
        "log_filename": "postgres.log",
        "fsync": "off",
    }
    settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]

    def work(netns: str) -> None:
        client(netns, f"{POSTGRES}/psql", "-h", HERE, "-U", "postgres", "-c", "CREATE TABLE IF NOT EXISTS t (n int)")

    return App(
        user="postgres",
        port=5432,
        words=(f"{POSTGRES}/postgres", "-D", str(data), *settings),
        works=work,
        log=folder / "postgres.log",
        reopen=f"{' '.join(as_owner)} {POSTGRES}/pg_ctl logrotate -D {data}",
        worker=("postgres", "postgres"),
    )


def forking(folder: Path) -> App:
    return App(
        user="root",
        port=8000,
        words=(os.path.realpath(sys.executable), "-c", FORKING, str(folder / "service.log")),
        works=fetch(8000),
        log=folder / "service.log",
        reopen=f"kill -HUP $(cat {folder}/service.log.pid)",
        worker=(Path(os.path.realpath(sys.executable)).name[:15], "www-data"),
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that other users may look into."""
    with tempfile.TemporaryDirectory(prefix="quell-learning-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def quell(tmp_path: Path) -> Iterator[Guarded]:
    running = Guarded(tmp_path, {"QUELL_GUARDIAN_SOCKETS": "1s"})
    running.start_controller()
    try:
        running.enrol()
        yield running
    finally:
        sys.stderr.write(running.log())  # shown where the test failed
        running.close()


@pytest.mark.parametrize("make", [nginx, postgres, forking], ids=lambda make: make.__name__)
def test_after_learning_a_restart_is_nothing_new_and_a_new_program_is(
    quell: Guarded, folder: Path, make: Callable[[Path], App]
) -> None:
    app = make(folder)
    with service() as unit, joined_namespaces() as (near, far):
        with started(quell, app, unit, near, far):
            wait_for(lambda: learned(quell, unit, app, far), SECONDS, "a worker that executed nothing, and a client")
            told = quell.quell(
                "policy", "create", "--from-observed", "--service", unit.cgroup, "--name", "it", "--apply"
            )
            assert told == "Policy it created\n"
        with started(quell, app, unit, near, far):
            rotate(app, folder)
            app.works(far)
            look_again(quell, "during")
            found = [(each["message"], each["subject"]["process"], each["addition"]) for each in quell.deviations("it")]
            assert found == [], "after a restart and a rotation of its logs"
            for _ in range(3):
                with unit.started("sleep", "0.5") as new:
                    assert new.wait(20) == 0
            wait_for(lambda: quell.count("sleep") == 3, SECONDS, "the new program, three times")
            looked_twice()
            found = [(each["message"], each["subject"]["process"], each["addition"]) for each in quell.deviations("it")]
            assert len(found) == 1, found
            [deviation] = quell.deviations("it")
            assert (deviation["count"], deviation["events"]) == (3, 1)
            assert deviation["name"] == "Host.Process.Violation"
            assert quell.ask("GET", "/v1/policies/it")["deviations"] == {"unique": 1, "total": 3}


@contextlib.contextmanager
def started(quell: Guarded, app: App, unit: Service, near: str, far: str) -> Iterator[None]:
    """It runs, has answered, and all that runs was told of."""
    # As systemd does it: namespace and user are set before the group is entered, where nothing but the program is executed.
    enters = f'exec 3> {unit.group}/cgroup.procs; exec "$@"'
    begins = 'echo $$ >&3; exec 3>&-; exec "$@"'
    apart = ("ip", "netns", "exec", near, *as_user(app.user), "sh", "-c", begins, "sh")
    with subprocess.Popen(
        ["sh", "-c", enters, "sh", *apart, *app.words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(lambda: answers(app, far, process), SECONDS, "an answer")
            look_again(quell, unit.name)
            looked_twice()
            yield
        finally:
            # As systemd does it: first the main process, then what is left of the group.
            process.terminate()
            process.wait(20)
            for pid in unit.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not unit.pids(), SECONDS, "the end of all its processes")


def answers(app: App, far: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "it has ended"
    try:
        app.works(far)
    except (AssertionError, subprocess.TimeoutExpired):
        return False
    return True


def rotate(app: App, folder: Path) -> None:
    """As the machine's own logrotate does."""
    config = folder / "logrotate.conf"
    config.write_text(ROTATE.format(log=app.log, command=app.reopen))
    config.chmod(0o644)
    done = subprocess.run(
        ["/usr/sbin/logrotate", "--force", "--state", str(folder / "state"), str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert app.log.with_name(f"{app.log.name}.1").exists()


def look_again(quell: Guarded, name: str) -> None:
    """A change of policies makes the agent tell of all that runs: what forked and executed nothing is among it."""
    quell.apply(f"""
apiVersion: quell.dev/v1
kind: Policy
metadata: {{name: other, type: linux-service}}
spec:
  mode: audit
  serviceSelector: {{matchFields: {{name: "none-{name}-{time.time()}"}}}}
  processPolicy: []
  response: {{default: [{{makeRedFlag: {{severity: low}}}}]}}
""")


def looked_twice() -> None:
    """The agent has been asked, which takes up to a second, and has looked at sockets twice; nothing tells when."""
    time.sleep(3.5)


def learned(quell: Guarded, unit: Service, app: App, far: str) -> bool:
    """A process that forked and executed nothing, and that somebody connected to it."""
    app.works(far)
    listed = quell.ask("GET", "/v1/fingerprints", params={"kind": "service", "text": unit.cgroup})["items"]
    if not listed:
        return False
    roots = quell.ask("GET", f"/v1/fingerprints/service/{unit.cgroup}")["roots"]
    seen = list(every(roots))
    has_worker = app.worker in {(each["name"], each["user"]) for each in seen}
    return has_worker and any(talk["port"] == app.port for each in seen for talk in each.get("talks", ()))


def every(processes: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for each in processes:
        yield each
        yield from every(each.get("children", []))
