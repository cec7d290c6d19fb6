"""What is gathered of real processes right before they are killed, and that no kill is lost or late because of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from running import wait_for

from quell.agent.executor import Executor
from quell.agent.gathering import AT_ONCE, FACTS, MOST_FACTS, Gatherer, Instance, Meant, fitting, spool_name
from quell.agent.ledger import Ledger
from quell.agent.linux.kernel import LinuxKernel
from quell.agent.members import Told
from quell.agent.proc import HZ, read_process
from quell.agent.protected import Protected
from quell.model.action import KillProcess, KillProcessGroup, KillProcessTree
from quell.model.decision import Command, Outcome, OutcomeStatus, Reason
from quell.model.evidence import EvidenceBounds, Gathered, OpenFile, ProcessEvidence
from quell.model.subject import ProcessTarget
from quell.secrets import HIDDEN

#: Seconds that a kill may wait on a machine that is busy: what is gathered must not depend on its speed.
GENEROUS = 30.0
HOLDS_MUCH = """
import os, socket, sys, time
kept = [open(sys.argv[1])]
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
six = socket.create_server(("::1", 0), family=socket.AF_INET6) if socket.has_ipv6 else None
local = socket.socket(socket.AF_UNIX)
local.bind(sys.argv[1] + ".socket")
print(server.getsockname()[1], flush=True)
time.sleep(600)
"""


class Slow(Gatherer):
    """Gathers, and then something happens while the kill still waits."""

    happens: Callable[[], object] = staticmethod(lambda: None)

    def gather(self, command: Command, meant: Sequence[Meant], members: Sequence[Instance] = ()) -> Told:
        told = super().gather(command, meant, members)
        self.happens()
        return told


_count = iter(range(1, 1_000_000))


class Place:
    """An executor that gathers, and what it gathered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ready: list[str] = []
        self.ledger = Ledger(folder / "ledger")
        self.gatherer = Slow(folder / "evidence", on_ready=self.ready.append)
        self.is_paused = False
        self.executor = Executor(
            LinuxKernel(), self.ledger, Protected.load(), gatherer=self.gatherer, paused=lambda: self.is_paused
        )

    def kill(self, pid: int, *, action: Any = None, wait: float = GENEROUS, executable: int = 64 << 20) -> Outcome:
        self.command = self.order(pid, action=action, wait=wait, executable=executable)
        return self.executor.execute(self.command)

    def order(self, pid: int, *, action: Any = None, wait: float = GENEROUS, executable: int = 64 << 20) -> Command:
        facts = read_process(pid, full=False)
        assert facts is not None
        now = time.time()
        return Command(
            id=f"event-{next(_count)}/0",
            agent="a",
            action=action or KillProcess(),
            target=ProcessTarget(node="n", process=facts.process, seen=now),
            issued=now,
            expires=now + 60,
            nonce="n",
            evidence=EvidenceBounds(wait=wait, executable=executable),
        )

    @property
    def spool(self) -> Path:
        return self.gatherer.folder / spool_name(self.command.id)

    def gathered(self) -> Gathered:
        wait_for(lambda: spool_name(self.command.id) in self.ready, what="the evidence")
        return msgspec.json.decode((self.spool / FACTS).read_bytes(), type=Gathered)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.ledger.close()


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
        started.append(process)
        time.sleep(2.5 / HZ)  # its start must lie more than a tick before the event
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_files_sockets_environment_and_command_line_are_there_and_no_secret_is(
    place: Place, start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    held = tmp_path / "held"
    held.write_text("x")
    secrets = {
        "API_TOKEN": "abcdefgh12345",
        "DB_PASSWORD": "correct horse",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SESSION": "anything",
        "DATABASE": "postgres://shop:s3cr3t-of-db@db.example/shop",
        "HEADER": "Authorization: Bearer eyJhbGciOi.abcdefgh.ijkl",
    }
    process = start(
        *(sys.executable, "-c", HOLDS_MUCH, str(held), "--password", "hunter-two", "--token=tok-123456", "plain"),
        env={"PATH": os.environ["PATH"], "SHOP": "cart", **secrets},
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())

    outcome = place.kill(process.pid)
    assert outcome.status is OutcomeStatus.DONE, outcome
    assert process.wait(10) == -signal.SIGKILL
    gathered = place.gathered()
    (told,) = gathered.processes
    assert gathered.missing == {}
    assert (told.pid, told.cwd, told.ppid) == (process.pid, str(tmp_path), os.getpid())
    assert told.status["Uid"].split()[0] == str(os.getuid())
    assert told.namespaces["net"] == Path("/proc/self/ns/net").stat().st_ino

    files = {each.path: each for each in told.files}
    assert files[str(held)].access == "read"
    states = {(each.protocol, each.state) for each in told.sockets}
    assert {("tcp", "LISTEN"), ("tcp", "ESTABLISHED")} <= states
    assert any(each.local == f"127.0.0.1:{port}" and each.state == "LISTEN" for each in told.sockets)
    assert any(each.remote == f"127.0.0.1:{port}" for each in told.sockets)
    assert any(each.protocol == "unix" and each.local == f"{held}.socket" for each in told.sockets)
    if socket.has_ipv6:
        assert any(each.protocol == "tcp6" and each.local.startswith("[::1]:") for each in told.sockets)
    assert any(path.endswith(".so") or ".so." in path for path in told.mapped)

    assert (told.environment["SHOP"], told.environment["API_TOKEN"]) == ("cart", HIDDEN)
    assert told.arguments[-4:] == ("--password", HIDDEN, f"--token={HIDDEN}", "plain")
    kept = (place.spool / FACTS).read_text() + (tmp_path / "ledger").read_text()
    for secret in (
        "abcdefgh12345",
        "correct horse",
        "AKIAIOSFODNN7",
        "anything",
        "s3cr3t-of-db",
        "eyJhbGci",
        "hunter-",
    ):
        assert secret not in kept
    assert "tok-123456" not in kept
    for part in ("arguments", "environment", "files", "sockets", "tree", "executable"):
        assert part in str(outcome.facts["evidence"])
    assert "evidence_missing" not in outcome.facts


def test_a_deleted_executable_is_copied_whole(
    place: Place, start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    program = tmp_path / "implant"
    shutil.copy("/bin/sleep", program)
    content = program.read_bytes()
    process = start(str(program), "600")
    program.unlink()
    assert place.kill(process.pid).status is OutcomeStatus.DONE
    executable = place.gathered().processes[0].executable
    assert executable is not None
    assert (executable.content, executable.size, executable.copied) == ("deleted", len(content), True)
    assert executable.sha256 == hashlib.sha256(content).hexdigest()
    copy = place.spool / executable.sha256
    assert copy.read_bytes() == content
    assert copy.stat().st_mode & 0o777 == 0o600


def test_of_an_executable_above_the_limit_there_is_the_hash_alone(
    place: Place, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start("/bin/sleep", "600")
    outcome = place.kill(process.pid, executable=1000)
    assert outcome.status is OutcomeStatus.DONE
    assert "copies are kept up to 1000" in str(outcome.facts["evidence_missing"])
    gathered = place.gathered()
    executable = gathered.processes[0].executable
    assert executable is not None
    assert not executable.copied
    assert executable.sha256 == hashlib.sha256(Path("/bin/sleep").read_bytes()).hexdigest()
    assert [path.name for path in place.spool.iterdir()] == [FACTS]


def test_without_copies_nothing_is_missing(place: Place, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("/bin/sleep", "600")
    assert "evidence_missing" not in place.kill(process.pid, executable=0).facts
    executable = place.gathered().processes[0].executable
    assert executable is not None
    assert (executable.copied, len(executable.sha256)) == (False, 64)


class Hanging(LinuxKernel):
    """A kernel that does not answer whoever gathers evidence before it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = threading.Event()

    def wait_ended(self, process: int, timeout: float) -> bool:
        if threading.current_thread().name == "evidence":
            assert self.let.wait(60)
        return super().wait_ended(process, timeout)


@pytest.mark.parametrize("action", [KillProcess(), KillProcessGroup(), KillProcessTree()], ids=["one", "group", "tree"])
def test_what_cannot_be_gathered_in_time_is_left_and_the_kill_is_not(
    place: Place, start: Callable[..., subprocess.Popen[bytes]], action: Any
) -> None:
    """The outcome says what is missing, and the evidence that comes in the end says the same."""
    kernel = Hanging()
    place.executor = Executor(kernel, place.ledger, Protected.load(), gatherer=place.gatherer)
    process = start("/bin/sleep", "600", start_new_session=True)
    outcome = place.kill(process.pid, wait=0.05, action=action)
    assert outcome.status is OutcomeStatus.DONE
    assert process.wait(10) == -signal.SIGKILL
    assert not kernel.let.is_set()
    said = str(outcome.facts["evidence_missing"])
    assert said.startswith("facts: not within 50 ms; ")
    assert "tree: not within 50 ms" in said
    kernel.let.set()
    gathered = place.gathered()
    assert gathered.processes == ()
    assert set(gathered.missing) == {part.partition(":")[0] for part in said.split("; ")}


def test_of_too_many_that_hang_the_next_kill_does_not_wait(
    place: Place, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    kernel = Hanging()
    place.executor = Executor(kernel, place.ledger, Protected.load(), gatherer=place.gatherer)
    try:
        for _ in range(AT_ONCE + 4):
            process = start("/bin/sleep", "600")
            outcome = place.kill(process.pid, wait=0.01)
            assert outcome.status is OutcomeStatus.DONE
        assert f"everything: {AT_ONCE} others are being gathered" in str(outcome.facts["evidence_missing"])
    finally:
        kernel.let.set()
    wait_for(lambda: len(place.ready) == AT_ONCE, what="those that hung")


def test_a_process_that_ended_meanwhile_is_gone_and_nobody_else_is_looked_at(
    place: Place, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start("/bin/sleep", "600")
    order = place.order(process.pid)
    place.executor.prepare(order)
    process.kill()
    process.wait()
    outcome = place.executor.execute(order)
    assert (outcome.status, outcome.reason) == (OutcomeStatus.GONE, Reason.GONE)
    assert place.ready == []


def test_one_that_ends_while_it_is_read_leaves_what_was_read(
    place: Place, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """The gatherer is asked by itself, of a process that has ended since it was proved."""

    process = start("/bin/sleep", "600")
    order = place.order(process.pid)
    facts = read_process(process.pid)
    assert facts is not None
    process.kill()
    process.wait()
    told = place.gatherer.gather(order, [Meant(process.pid, facts.process.start_ticks or 0, lambda: False)])
    assert "facts: the process ended while it was read" in str(told["evidence_missing"])


def test_another_process_of_the_same_number_is_never_told_of(
    place: Place, start: Callable[..., subprocess.Popen[bytes]]
) -> None:

    process = start("/bin/sleep", "600")
    place.command = place.order(process.pid)
    place.gatherer.gather(place.command, [Meant(process.pid, 1, lambda: True)])
    assert place.gathered().processes == ()


@pytest.mark.parametrize("action", [KillProcessGroup(), KillProcessTree()], ids=["group", "tree"])
def test_of_a_group_and_a_tree_the_target_is_told_in_full_and_the_others_by_name(
    place: Place, start: Callable[..., subprocess.Popen[bytes]], action: Any
) -> None:
    script = "import subprocess, time; subprocess.Popen(['sleep', '599']); time.sleep(600)"
    process = start(sys.executable, "-c", script, start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_for(lambda: bool(children.read_text().split()), what="the child")
    child = int(children.read_text().split()[0])
    wait_for(lambda: Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"sleep"), what="its program")
    time.sleep(2.5 / HZ)
    outcome = place.kill(process.pid, action=action)
    assert outcome.status is OutcomeStatus.DONE, outcome
    gathered = place.gathered()
    assert [each.pid for each in gathered.processes] == [process.pid]
    relatives = {each.pid: each for each in gathered.relatives}
    assert relatives[child].relation == "member"
    assert relatives[child].arguments == ("sleep", "599")
    assert relatives[os.getpid()].relation == "ancestor"


def test_a_kill_without_evidence_gathers_none(place: Place, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("/bin/sleep", "600")
    order = msgspec.structs.replace(place.order(process.pid), evidence=None)
    outcome = place.executor.execute(order)
    assert outcome.status is OutcomeStatus.DONE
    assert not [name for name in outcome.facts if name.startswith("evidence")]
    assert list(place.gatherer.folder.iterdir()) == []


def test_where_it_cannot_be_kept_the_kill_happens_and_says_so(
    place: Place, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    place.gatherer.folder.rmdir()
    place.gatherer.folder.write_text("no folder")
    process = start("/bin/sleep", "600")
    outcome = place.kill(process.pid)
    assert outcome.status is OutcomeStatus.DONE
    assert "everything: it could not be kept" in str(outcome.facts["evidence_missing"])


def test_what_a_crash_left_before_the_copy_is_taken_up(tmp_path: Path) -> None:
    folder = tmp_path / "evidence" / spool_name("e/0")
    folder.mkdir(parents=True)
    begun = Gathered(id="e/0", time=1.0, seconds=0.1)
    (folder / "begun.json").write_bytes(msgspec.json.encode(begun))
    torn = tmp_path / "evidence" / spool_name("e/1")
    torn.mkdir()
    (torn / "begun.json").write_bytes(b'{"id": "e/1"')
    Gatherer(tmp_path / "evidence")
    taken = msgspec.json.decode((folder / FACTS).read_bytes(), type=Gathered)
    assert taken.id == "e/0"
    assert "the agent ended" in taken.missing["copy"]
    assert not torn.exists()


def test_of_a_process_with_too_much_the_first_is_kept_and_the_rest_counted(
    place: Place, start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    held = tmp_path / "held"
    held.touch()
    script = """
import os, resource, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
first = os.open(sys.argv[1], os.O_RDONLY)
kept = [os.dup(first) for _ in range(3000)]
print("ready", flush=True)
time.sleep(600)
"""
    many = {f"VARIABLE_{n}": "x" * 100 for n in range(900)}
    process = start(sys.executable, "-c", script, str(held), env=many, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    outcome = place.kill(process.pid)
    assert outcome.status is OutcomeStatus.DONE
    gathered = place.gathered()
    (told,) = gathered.processes
    assert len(told.files) == 2048
    assert gathered.missing["files"].endswith("there are, the first 2048 were kept")
    assert len(told.environment) == 512
    assert gathered.missing["environment"] == "900 there are, the first 512 were kept"
    assert "environment: 900 there are" in str(outcome.facts["evidence_missing"])


def test_what_cannot_be_cut_is_left(tmp_path: Path) -> None:
    status = {f"Field{n}": "x" * 4096 for n in range(300)}
    process = ProcessEvidence(
        pid=1, start_ticks=1, start_time=1.0, boot_id="b", name="n", ppid=0, pgid=1, sid=1, status=status
    )
    read = msgspec.json.decode(fitting(Gathered(id="e/0", time=1.0, seconds=0.1, processes=(process,))), type=Gathered)
    assert (read.id, read.processes, list(read.missing)) == ("e/0", (), ["everything"])


def test_the_longest_lists_are_cut_until_the_facts_fit_into_a_frame() -> None:
    files = tuple(OpenFile(fd=n, path="/x" * 2000) for n in range(2048))
    process = ProcessEvidence(
        pid=1,
        start_ticks=1,
        start_time=1.0,
        boot_id="b",
        name="n",
        ppid=0,
        pgid=1,
        sid=1,
        files=files,
        arguments=("a",),
    )
    facts = fitting(Gathered(id="e/0", time=1.0, seconds=0.1, processes=(process,)))
    assert len(facts) <= MOST_FACTS
    read = msgspec.json.decode(facts, type=Gathered)
    assert 0 < len(read.processes[0].files) < 2048
    assert read.processes[0].arguments == ("a",)
    assert read.missing["files"] == f"only the first {len(read.processes[0].files)} fit"


def exe(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 - of a process that may be between two


@pytest.mark.parametrize(
    "action", [KillProcess(), KillProcessGroup(), KillProcessTree()], ids=lambda one: type(one).__name__
)
def test_what_became_another_program_while_the_kill_waited_is_not_killed(
    place: Place, start: Callable[..., subprocess.Popen[bytes]], action: Any
) -> None:
    becomes = "trap 'exec sleep 600' USR1; echo ready; while :; do sleep 0.02; done"
    process = start("bash", "-c", becomes, stdout=subprocess.PIPE, process_group=0)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"

    def become() -> None:
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: exe(process.pid).endswith("/sleep"), what="the other program")

    place.gatherer.happens = become
    outcome = place.kill(process.pid, action=action)
    assert (outcome.status, outcome.reason) == (OutcomeStatus.REFUSED, Reason.IDENTITY), outcome
    assert "environment" in str(outcome.facts["evidence"])
    assert process.poll() is None


def test_a_group_is_who_is_in_it_when_the_wait_is_over(
    place: Place, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    leader = start("sleep", "600", process_group=0)
    leaves = "import os, signal; signal.sigwait([signal.SIGUSR1]) and os.setpgid(0, 0); print('left', flush=True); signal.pause()"
    blocked = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); print('ready', flush=True); {leaves}"
    leaver = start(sys.executable, "-c", blocked, process_group=leader.pid, stdout=subprocess.PIPE)
    assert leaver.stdout is not None
    assert leaver.stdout.readline() == b"ready\n"
    came: list[subprocess.Popen[bytes]] = []

    def change() -> None:
        came.append(start("sleep", "601", process_group=leader.pid))
        leaver.send_signal(signal.SIGUSR1)
        assert leaver.stdout is not None
        assert leaver.stdout.readline() == b"left\n"

    place.gatherer.happens = change
    outcome = place.kill(leader.pid, action=KillProcessGroup())
    assert outcome.status is OutcomeStatus.DONE, outcome
    assert (leader.wait(30), came[0].wait(30)) == (-9, -9)
    assert leaver.poll() is None


def test_a_pause_that_came_while_the_kill_waited_holds(
    place: Place, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    for action in (KillProcess(), KillProcessGroup(), KillProcessTree()):
        process = start("sleep", "600", process_group=0)
        place.is_paused = False
        place.gatherer.happens = lambda: setattr(place, "is_paused", True)
        outcome = place.kill(process.pid, action=action)
        assert (outcome.status, outcome.reason) == (OutcomeStatus.REFUSED, Reason.PAUSED)
        assert process.poll() is None


def test_names_that_are_no_text_are_kept(
    place: Place, start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    odd = os.fsencode(tmp_path) + b"/od\xffd"
    os.mkdir(odd)  # noqa: PTH102 - bytes
    with open(odd + b"/fi\xfele", "wb") as file:  # noqa: PTH123 - bytes
        process = start("sleep", "600", cwd=odd, stdout=file)
    outcome = place.kill(process.pid)
    assert outcome.status is OutcomeStatus.DONE
    assert "evidence_missing" not in outcome.facts, outcome.facts
    [found] = place.gathered().processes
    assert str(found.cwd).endswith("/od\\xffd")
    assert any(each.path.endswith("/fi\\xfele") for each in found.files)
