"""The agent as a process, against a controller that is a script: real sockets, real messages, real victims."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

import quell
from quell.agent import proc
from quell.channel import messages as m
from quell.channel.envelope import check_proof, sign
from quell.channel.keys import load_or_create_key, public_key, public_text, save_private
from quell.model.action import AgentAction, KillProcess
from quell.model.decision import Command, Outcome, OutcomeStatus, Reason
from quell.model.subject import ProcessTarget

T = TypeVar("T")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(quell.__file__).parents[1])}
AGENT = "agent-1"
UNPRIVILEGED = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")


class Controller:
    """The script: greets an agent properly, keeps what it says, says what the test tells it to."""

    def __init__(self, *, paused: bool = False) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.agent_key = Ed25519PrivateKey.generate().public_key()
        self.welcome = m.Welcome(paused=paused)
        self.hellos: list[m.Hello] = []
        self.heard: list[m.FromAgent] = []
        self.link: ServerConnection | None = None
        self.port = 0

    async def serve(self, connection: ServerConnection) -> None:
        assert connection.subprotocol == m.SUBPROTOCOL
        hello = m.decode_from_agent(await connection.recv())
        assert isinstance(hello, m.Hello)
        nonce = os.urandom(32)
        await connection.send(m.encode(m.Challenge(nonce=nonce)))
        proof = m.decode_from_agent(await connection.recv())
        assert isinstance(proof, m.Proof)
        check_proof(proof.signature, nonce, hello.agent, self.agent_key)
        await connection.send(m.encode(self.welcome))
        self.hellos.append(hello)
        self.link = connection
        try:
            async for frame in connection:
                self.heard.append(m.decode_from_agent(frame))
        except ConnectionClosed:
            return

    async def send(self, message: m.FromController) -> None:
        assert self.link is not None
        await self.link.send(m.encode(message))

    async def order(self, command: Command) -> None:
        await self.send(m.Ordered(envelope=sign(command, self.key)))

    def outcomes(self) -> list[Outcome]:
        return [message.outcome for message in self.heard if isinstance(message, m.Reported)]

    def events(self) -> list[m.Observed]:
        return [message for message in self.heard if isinstance(message, m.Observed)]

    async def outcome(self, identity: str) -> Outcome:
        return await until(lambda: next((outcome for outcome in self.outcomes() if outcome.id == identity), None))

    async def linked(self, times: int = 1) -> None:
        await until(lambda: len(self.hellos) >= times)


async def until(found: Callable[[], T | None], seconds: float = 15.0) -> T:
    deadline = time.monotonic() + seconds
    while True:
        result = found()
        if result:
            return result
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def controller(state: Path, *, paused: bool = False) -> AsyncIterator[Controller]:
    """A script, and a state folder enrolled with it."""
    script = Controller(paused=paused)
    enrolled_with(script, state)
    protocols = [Subprotocol(m.SUBPROTOCOL)]
    async with serve(script.serve, "127.0.0.1", 0, subprotocols=protocols, compression=None) as server:
        script.port = server.sockets[0].getsockname()[1]
        yield script


def enrolled_with(script: Controller, state: Path) -> None:
    state.mkdir(mode=0o700)
    script.agent_key = load_or_create_key(state / "key").public_key()
    save_private(state / "controller.pub", public_text(script.key.public_key()).encode())
    save_private(state / "agent.json", msgspec.json.encode({"agent": AGENT, "node": "here"}))


def command_line(state: Path, port: int, *options: str) -> list[str]:
    return [sys.executable, "-m", "quell.agent", "--url", f"http://127.0.0.1:{port}", "--state", str(state), *options]


@asynccontextmanager
async def agent(
    script: Controller, state: Path, *options: str, fault: str = ""
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command_line(state, script.port, "--no-sensor", *options), env={**ENVIRONMENT, "QUELL_FAULT": fault}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 10)


@contextmanager
def victim(*prefix: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([*prefix, "sleep", "60"], **options) as process:
        try:
            yield process
        finally:
            process.kill()


async def order_for(
    process: subprocess.Popen[bytes], identity: str, *, action: AgentAction | None = None, **changes: object
) -> Command:
    # Without the sensor a start is told from the event's time only if a clock tick lies between.
    await asyncio.sleep(0.05)
    facts = proc.read_process(process.pid)
    assert facts is not None
    now = time.time()
    command = Command(
        id=identity,
        agent=AGENT,
        action=action or KillProcess(),
        target=ProcessTarget(node="here", process=facts.process, seen=now),
        issued=now,
        expires=now + 30,
        nonce=os.urandom(8).hex(),
    )
    return msgspec.structs.replace(command, **changes)


def test_says_who_it_is_and_stops_cleanly(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path / "a") as script, agent(script, tmp_path / "a") as process:
            await script.linked()
            hello = script.hellos[0]
            assert (hello.agent, hello.node, hello.version) == (AGENT, "here", quell.__version__)
            assert (hello.boot_id, hello.machine_id) == (proc.boot_id(), proc.machine_id())
            assert abs(hello.boot_time - proc.boot_time()) < 1
            assert "agentKillProcess" in hello.capabilities
            assert "sensor: switched off" in hello.limits
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 5) == 0

    asyncio.run(scenario())


def test_kills_and_a_replay_is_answered_but_not_done_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path / "a") as script, agent(script, tmp_path / "a"):
            await script.linked()
            with victim() as process:
                command = await order_for(process, "e/1")
                await script.order(command)
                outcome = await script.outcome("e/1")
                assert (outcome.status, outcome.reason) == (OutcomeStatus.DONE, None)
                assert process.wait(5) == -signal.SIGKILL
            await script.order(command)
            again = await until(lambda: script.outcomes()[1:])
            assert again == [outcome]

    asyncio.run(scenario())


def test_what_the_controller_did_not_sign_for_this_agent_now_is_not_done(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path / "a") as script, agent(script, tmp_path / "a"):
            await script.linked()
            with victim() as process, victim() as other:
                good = await order_for(process, "e/1")
                altered = bytearray(sign(good, script.key))
                altered[-5] ^= 1
                expired = await order_for(process, "e/2", expires=time.time() - 1)
                elsewhere = await order_for(process, "e/3", agent="agent-2")
                for envelope in (
                    bytes(altered),
                    sign(good, Ed25519PrivateKey.generate()),
                    msgspec.msgpack.encode(good),
                    sign(expired, script.key),
                    sign(elsewhere, script.key),
                ):
                    await script.send(m.Ordered(envelope=envelope))
                # Orders are taken in turn, so this one's outcome says that the others have been looked at.
                await script.order(await order_for(other, "e/4"))
                await script.outcome("e/4")
                assert other.wait(5) == -signal.SIGKILL
                assert process.poll() is None
                assert [outcome.id for outcome in script.outcomes()] == ["e/4"]
                told = [json.loads(event.raw) for event in script.events()]
                assert [event["name"] for event in told] == ["Agent.Command.Refused"]
                assert "altered" in told[0]["details"]["message"]

    asyncio.run(scenario())


def test_outcomes_and_events_are_repeated_until_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path / "a") as script:
            async with agent(script, tmp_path / "a"):
                await script.linked()
                with victim() as process:
                    await script.order(await order_for(process, "e/1"))
                    first = await script.outcome("e/1")
                await script.send(m.Ordered(envelope=b"nothing"))
                event = (await until(script.events))[0]
                for times in (2, 3):
                    script.heard.clear()
                    assert script.link is not None
                    await script.link.close()
                    await script.linked(times)
                    assert await script.outcome("e/1") == first
                    assert await until(script.events) == [event]
            # Nothing was acknowledged: a new process repeats it too.
            script.heard.clear()
            async with agent(script, tmp_path / "a"):
                await script.linked(4)
                assert await script.outcome("e/1") == first
                assert await until(script.events) == [event]
                await script.send(m.OutcomeAck(ids=("e/1", "unknown")))
                await script.send(m.EventAck(ids=(event.id, "unknown")))
                with victim() as process:
                    await script.order(await order_for(process, "e/2"))
                    await script.outcome("e/2")
                script.heard.clear()
                await script.link.close()
                await script.linked(5)
                await script.outcome("e/2")
                assert [outcome.id for outcome in script.outcomes()] == ["e/2"]
                assert script.events() == []

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", ["agent.before-report", "agent.after-report"])
def test_a_crash_around_the_report_loses_nothing(tmp_path: Path, fault: str) -> None:
    async def scenario() -> None:
        async with controller(tmp_path / "a") as script:
            with victim() as process:
                command = await order_for(process, "e/1")
                async with agent(script, tmp_path / "a", fault=fault) as first:
                    await script.linked()
                    await script.order(command)
                    assert await asyncio.wait_for(first.wait(), 10) == -signal.SIGKILL
                assert process.wait(5) == -signal.SIGKILL
            script.heard.clear()
            async with agent(script, tmp_path / "a"):
                await script.linked(2)
                await script.order(command)
                outcome = await script.outcome("e/1")
                assert outcome.status is OutcomeStatus.DONE

    asyncio.run(scenario())


def test_the_pause_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        pause = tmp_path / "a" / "pause"
        async with controller(tmp_path / "a") as script, agent(script, tmp_path / "a"):
            await script.linked()
            with victim() as process:
                pause.touch()
                await script.order(await order_for(process, "e/1"))
                outcome = await script.outcome("e/1")
                assert (outcome.status, outcome.reason) == (OutcomeStatus.REFUSED, Reason.PAUSED)
                assert process.poll() is None
                pause.unlink()
                await script.order(await order_for(process, "e/2"))
                assert (await script.outcome("e/2")).status is OutcomeStatus.DONE

    asyncio.run(scenario())


def test_paused_by_the_controller(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path / "a", paused=True) as script, agent(script, tmp_path / "a"):
            await script.linked()
            with victim() as process:
                await script.order(await order_for(process, "e/1"))
                assert (await script.outcome("e/1")).reason is Reason.PAUSED
                assert process.poll() is None

    asyncio.run(scenario())


def test_a_named_process_is_protected(tmp_path: Path) -> None:
    async def scenario() -> None:
        with victim() as process:
            protect = ("--protect-pid", str(process.pid))
            async with controller(tmp_path / "a") as script, agent(script, tmp_path / "a", *protect):
                await script.linked()
                await script.order(await order_for(process, "e/1"))
                assert (await script.outcome("e/1")).reason is Reason.PROTECTED
                assert process.poll() is None

    asyncio.run(scenario())


def test_a_second_agent_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path / "a") as script, agent(script, tmp_path / "a"):
            await script.linked()
            async with agent(script, tmp_path / "a") as second:
                assert await asyncio.wait_for(second.wait(), 10) == 1

    asyncio.run(scenario())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="another user's process is needed")
def test_without_privileges_it_says_what_it_cannot_do_and_does_the_rest(tmp_path: Path) -> None:
    """User 0 without any capability is a user like others, and can still read this Python, wherever it lies."""

    async def scenario() -> None:
        async with controller(tmp_path / "a") as script:
            process = await asyncio.create_subprocess_exec(
                *UNPRIVILEGED, *command_line(tmp_path / "a", script.port), env=ENVIRONMENT
            )
            try:
                await script.linked()
                limits = " ".join(script.hellos[0].limits)
                for part in ("sensor: ", "agentKillProcess: only processes of user 0", "quarantine: for lack of"):
                    assert part in limits
                assert "quarantine" not in script.hellos[0].capabilities
                with victim(*UNPRIVILEGED) as own, victim(user=65534, group=65534, extra_groups=[]) as other:
                    await script.order(await order_for(other, "e/1"))
                    await script.order(await order_for(own, "e/2"))
                    assert (await script.outcome("e/1")).status is OutcomeStatus.REFUSED
                    assert (await script.outcome("e/2")).status is OutcomeStatus.DONE
                    assert own.wait(5) == -signal.SIGKILL
                    assert other.poll() is None
            finally:
                process.terminate()
                assert await asyncio.wait_for(process.wait(), 10) == 0

    asyncio.run(scenario())


def test_small_and_idle(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with controller(tmp_path / "a") as script, agent(script, tmp_path / "a") as process:
            await script.linked()
            with victim() as one:
                await script.order(await order_for(one, "e/1"))
                await script.outcome("e/1")
            assert resident_kib(process.pid) <= 60 * 1024
            before = cpu_ticks(process.pid)
            await asyncio.sleep(1)
            assert cpu_ticks(process.pid) - before <= 1

    asyncio.run(scenario())


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class Enrolment(HTTPServer):
    """Answers POST with what the test has laid ready, and nothing else."""

    def __init__(self, *answers: tuple[int, object]) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.answers = list(answers)
        self.requests: list[dict[str, str]] = []


class _Answer(BaseHTTPRequestHandler):
    server: Enrolment

    def do_POST(self) -> None:
        assert self.path == m.JOIN_PATH
        self.server.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status, body = self.server.answers.pop(0)
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def enrolment(*answers: tuple[int, object]) -> Iterator[Enrolment]:
    with Enrolment(*answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_enrols_once_and_needs_no_token_again(tmp_path: Path) -> None:
    key = public_text(Ed25519PrivateKey.generate().public_key())
    state = tmp_path / "a"
    busy, joined = (503, {"title": "Busy"}), (201, {"agent": "agent-7", "controller_key": key})
    with enrolment(busy, joined) as server:
        token = {**ENVIRONMENT, "QUELL_JOIN_TOKEN": "once"}
        line = command_line(state, server.server_port, "--no-sensor", "--node", "n1")
        with subprocess.Popen(line, env=token, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            # The script serves no link; that it is dialled says that enrolment is over.
            log = next(line for line in process.stderr if "not linked" in line)
            process.terminate()
            assert process.wait(5) == 0
        assert "/v1/agents/link" in log
        request = server.requests[-1]
        assert (request["token"], request["name"], request["node"]) == ("once", "n1", "n1")
        assert request["machine_id"] == proc.machine_id()
        assert public_key(request["public_key"]) == load_or_create_key(state / "key").public_key()
        assert json.loads((state / "agent.json").read_text()) == {"agent": "agent-7", "node": "n1"}
        assert (state / "controller.pub").read_text().strip() == key
        assert state.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o077 for path in state.iterdir()} == {0}
        with subprocess.Popen(line, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert next(line for line in process.stderr if "not linked" in line)
            process.terminate()
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "token", "said"),
    [
        ((403, {"title": "Forbidden", "detail": "the token has expired"}), "old", "(403): the token has expired"),
        ((201, {"agent": "x", "controller_key": "nonsense"}), "t", "a public key starts with"),
        ((200, {}), "", "no join token given"),
    ],
)
def test_cannot_enrol(tmp_path: Path, answer: tuple[int, object], token: str, said: str) -> None:
    with enrolment(answer) as server:
        done = subprocess.run(
            command_line(tmp_path / "a", server.server_port),
            env={**ENVIRONMENT, "QUELL_JOIN_TOKEN": token},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 5
    assert said in done.stderr
    assert not (tmp_path / "a" / "agent.json").exists()


def test_plain_http_to_another_machine_is_refused(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "quell.agent", "--url", "http://192.0.2.1", "--state", str(tmp_path / "a")]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "--insecure" in done.stderr
    assert not (tmp_path / "a").exists()


def test_a_wrong_watch_list_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "list.toml"
    file.write_text('[[watch]]\nname = "x"\nnmes = ["y"]\n[[watch]]\nname = "z"\n')
    line = command_line(tmp_path / "a", 9, "--watch-list", str(file))
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert "watch[0]" in done.stderr
    assert "nmes" in done.stderr
    assert "'z'" in done.stderr
