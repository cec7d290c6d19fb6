"""Carries out commands: proves the target, writes the ledger, acts, and says what became of it. SEMANTICS 4, 8 and 9.

The order is always the same: identity on a handle that can mean one process instance or namespace only, protection,
ledger on disk, action, outcome on disk. A command that comes again is answered with its outcome; one that a crash
interrupted is done again, which the handle makes safe.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from quell.agent.gathering import Gatherer, gathered
from quell.agent.identity import disagreement, start_disagreement, too_fresh
from quell.agent.kernel import Kernel
from quell.agent.kills import Kills
from quell.agent.ledger import Closed, Ledger
from quell.agent.members import Told
from quell.agent.members import told as told_of
from quell.agent.pod import NotYet
from quell.agent.proc import Facts
from quell.agent.protected import Protected
from quell.agent.quarantine import Looked, Quarantines
from quell.agent.refusal import Refused
from quell.errors import StoreError
from quell.faults import point
from quell.model.action import (
    KillPod,
    KillProcess,
    KillProcessGroup,
    KillProcessTree,
    Quarantine,
    ReleaseQuarantine,
    ReniceProcess,
    word,
)
from quell.model.decision import Command, Outcome, OutcomeStatus, Reason
from quell.model.subject import NetworkTarget, PodTarget, Process, ProcessTarget, Target

#: Seconds to wait for a killed process to be gone. Teardown of a large one takes tens of milliseconds; one that hangs in
#: the kernel may never go, and the outcome says so.
KILL_SECONDS = 2.0

#: Seconds for which what was proved of a target holds: what it executes may have changed since.
_PREPARED_SECONDS = 0.05
#: Seconds for a process that is being torn down when its command comes again.
_ENDING_SECONDS = 1.0
#: Targets prepared at the same time.
_MOST_PREPARED = 32

#: What an action came to: status, reason, explanation, facts, and what the ledger shall note with it.
_Result = tuple[OutcomeStatus, Reason | None, str, dict[str, str | int | float | list[int]], tuple[Closed | str, ...]]


class _Prepared(NamedTuple):
    """A target proved ahead: a handle of it, what it was, and when (monotonic seconds)."""

    process: int
    facts: Facts
    at: float


class _Struck(NamedTuple):
    """A target that has its signal: since when (time.perf_counter), or why it could not be given."""

    process: int
    facts: Facts
    at: float
    error: OSError | StoreError | None


class _Turn:
    """One thread's turn with a command, for whose end others wait."""

    __slots__ = ("_over", "is_ordered", "is_preparing")

    def __init__(self, *, is_preparing: bool = False) -> None:
        # Held until it is over; an Event takes ten times as long to make, twice on the way of each kill.
        self._over = threading.Lock()
        self._over.acquire()
        #: Its target is being proved; once it is ordered too, whoever proves it gives the signal.
        self.is_preparing = is_preparing
        self.is_ordered = False

    def end(self) -> None:
        self._over.release()

    def wait(self) -> None:
        with self._over:
            return


class Executor:
    """Safe to use from several threads; execute blocks until the outcome is known, for some seconds at most."""

    def __init__(
        self,
        kernel: Kernel,
        ledger: Ledger,
        protected: Protected,
        clock: Callable[[], float] = time.time,
        *,
        kept: Callable[[int], int | None] = lambda _pid: None,
        paused: Callable[[], bool] = lambda: False,
        gatherer: Gatherer | None = None,
    ) -> None:
        """kept: a pidfd of a process, to be closed here, that the sensor has had since its first sight. paused: nothing
        destructive is done now. gatherer: of evidence before kills; None: none is gathered.
        """
        self.kernel = kernel
        self.ledger = ledger
        self.protected = protected
        self.quarantines = Quarantines(kernel, ledger, protected, self._find)
        self.kills = Kills(kernel, ledger, protected, self._find, clock, gatherer, self._not_paused)
        self._gatherer = gatherer
        self._clock = clock
        self._kept = kept
        self._paused = paused
        self._lock = threading.Lock()
        #: One quarantine or release after the other, from its look at the ledger to its outcome there: a release and a
        #: quarantine of one namespace that come together must end as they were issued.
        self._turn = threading.Lock()
        self._running: dict[str, _Turn] = {}
        self._prepared: OrderedDict[str, _Prepared] = OrderedDict()
        self._struck: dict[str, _Struck] = {}

    def execute(self, command: Command) -> Outcome:
        """Do it, or say why not; a command that has ended is answered with its recorded outcome and not done again.

        NotYet: it was begun, and has to be executed again for its end.
        """
        while True:
            if outcome := self.ledger.find(command.id):
                return outcome
            with self._lock:
                running = self._running.get(command.id)
                if running is None:
                    mine = self._running[command.id] = _Turn()
                    break
            running.wait()
        try:
            return self.ledger.find(command.id) or self._execute(command)
        finally:
            with self._lock:
                del self._running[command.id]
            mine.end()

    def prepare(self, command: Command, *, wait: bool = True) -> bool:
        """Look at the target of a command that may follow, and do nothing: executing it then finds that done.

        If it is ordered meanwhile, it is struck here. Whatever speaks against it is found again, and told, by execute.
        wait: False for a thread that has others to serve. Where there may be something to wait for nothing is done then, and
        it is False.
        """
        target = command.target
        if not isinstance(target, ProcessTarget) or not isinstance(command.action, KillProcess):
            return True
        if not wait and not self._is_proved_at_once(target):
            return False
        with self._lock:
            if command.id in self._running or self.ledger.is_known(command.id):
                return True
            mine = self._running[command.id] = _Turn(is_preparing=True)
        prepared, struck = None, None
        try:
            with contextlib.suppress(Refused, OSError):
                prepared = _Prepared(*self._find(target), time.monotonic())
            with self._lock:
                mine.is_preparing, is_ordered = False, mine.is_ordered
            if prepared is not None and is_ordered and self._may_strike(command):
                struck = self._strike(command, prepared, wait=True)
        finally:
            self._end_turn(command, mine, prepared, struck)
        return True

    def strike(self, command: Command) -> int | None:
        """Give its signal to a target that is proved ahead, or have whoever is proving it do so; `execute`, which must
        follow, finds that done and sees to the rest.

        The target's handle if it has its signal now; execute closes it, and has nothing to wait for once it has ended.

        It waits for nothing, so that a thread may call it which has others to serve. Where there is something to wait for,
        or that speaks against it, it does nothing: execute finds and tells it.
        """
        if not self._may_strike(command):
            return None
        with self._lock:
            running = self._running.get(command.id)
            if running is not None:
                running.is_ordered |= running.is_preparing
                return None
            if command.id in self._struck or self.ledger.is_known(command.id):
                return None
            # The same order, come before, may be about to be executed by another thread.
            mine = self._running[command.id] = _Turn()
        taken, struck = None, None
        try:
            taken = self._taken(command)
            if taken is not None:
                struck = self._strike(command, taken, wait=False)
        finally:
            self._end_turn(command, mine, taken, struck)
        return None if struck is None or struck.error is not None else struck.process

    def _is_proved_at_once(self, target: ProcessTarget) -> bool:
        """The names of users may be in a file that a container's own file system has to tell of."""
        return target.process.user is None and self.kernel.facts_at_once and self.protected.is_at_hand()

    def _may_strike(self, command: Command) -> bool:
        return command.evidence is None and command.expires > self._clock() and not self._paused()

    def _end_turn(self, command: Command, turn: _Turn, prepared: _Prepared | None, struck: _Struck | None) -> None:
        """Keep what came of it for execute: a target that is proved, or that has its signal."""
        unused: list[int] = []
        with self._lock:
            if struck is not None:
                self._struck[command.id] = struck
            elif prepared is not None:
                if (other := self._prepared.pop(command.id, None)) is not None:
                    unused.append(other.process)
                self._prepared[command.id] = prepared
                now = time.monotonic()
                for identifier, other in list(self._prepared.items()):
                    if len(self._prepared) > _MOST_PREPARED or now - other.at > _PREPARED_SECONDS:
                        unused.append(self._prepared.pop(identifier).process)
            del self._running[command.id]
        turn.end()
        for handle in unused:
            self.kernel.close(handle)

    def _strike(self, command: Command, taken: _Prepared, *, wait: bool) -> _Struck | None:
        """None: the ledger is being written, and is not waited for."""
        started, error = time.perf_counter(), None
        try:
            if not self.ledger.begin(command, sync=False, wait=wait):
                return None
            point("agent.before-action")
            started = time.perf_counter()
            self.kernel.kill(taken.process)
        except (OSError, StoreError) as failure:
            error = failure
        return _Struck(taken.process, taken.facts, started, error)

    def resume(self) -> tuple[Outcome, ...]:
        """End what a crash interrupted: to be called once, before the first command. What waits is left unfinished."""
        outcomes = []
        for command in self.ledger.unfinished():
            with contextlib.suppress(NotYet):
                outcomes.append(self.execute(command))
        return tuple(outcomes)

    def expired(self, now: float) -> tuple[str, ...]:
        """Keys of the quarantines whose lease has run out: release each."""
        return tuple(each.key for each in self.ledger.closed() if each.until is not None and each.until <= now)

    def release(self, key: str) -> bool:
        """End a quarantine without a command: a lease that ran out. False: none of this key is in force.

        OSError: the machine refuses; StoreError: the ledger does. The quarantine is then still in force.
        """
        with self._turn:
            return self.quarantines.release(key)

    def look(self, *, released: bool) -> Looked:
        """See quell.agent.quarantine.Quarantines.look."""
        with self._turn:
            return self.quarantines.look(released=released)

    def closed(self) -> tuple[str, ...]:
        """Keys of the quarantines in force."""
        return tuple(sorted(each.key for each in self.ledger.closed()))

    def release_all(self) -> tuple[int, ...]:
        """Open every namespace this agent ever closed, recorded or not; the inodes of those that were closed."""
        with self._turn:
            return self.quarantines.release_all()

    def _execute(self, command: Command) -> Outcome:
        if isinstance(command.target, NetworkTarget):
            with self._turn:
                return self._carry_out(command)
        return self._carry_out(command)

    def _carry_out(self, command: Command) -> Outcome:
        started = time.perf_counter()
        with self._lock:
            struck = self._struck.pop(command.id, None)
        again = struck is None and self.ledger.begun(command.id)
        try:
            status, reason, explanation, facts, changes = (
                self._result(command, again=again) if struck is None else self._ended(struck)
            )
        except Refused as refused:
            status, reason, explanation, changes = refused.status, refused.reason, str(refused), ()
            facts = _known(command.target) if status is OutcomeStatus.GONE else {}
        except PermissionError as error:
            status, reason, facts, changes = OutcomeStatus.REFUSED, Reason.UNSUPPORTED, {}, ()
            explanation = f"this agent lacks the privilege to do it: {error.strerror}"
        except OSError as error:
            status, reason, explanation, facts, changes = OutcomeStatus.FAILED, Reason.FAILED, str(error), {}, ()
        except StoreError as error:
            # What cannot be written down first is not done.
            status, reason, facts, changes = OutcomeStatus.FAILED, Reason.FAILED, {}, ()
            explanation = f"the ledger cannot be written: {error}"
        if again:
            facts["repeated"] = 1
        outcome = Outcome(
            id=command.id,
            status=status,
            reason=reason,
            explanation=explanation,
            time=self._clock(),
            duration=time.perf_counter() - started,
            facts=facts,
        )
        try:
            self.ledger.end(command, outcome, *changes)
            self.ledger.compact(outcome.time)
        except StoreError:
            return outcome  # it is reported all the same; a repeat can only reach the same target
        return outcome

    def _result(self, command: Command, *, again: bool) -> _Result:
        if again and self._is_done(command):
            return OutcomeStatus.DONE, None, "it was done before the agent was restarted", {}, ()
        if command.expires <= self._clock() and not self._is_under_way(command):
            raise Refused(Reason.EXPIRED, "it reached this agent too late", OutcomeStatus.EXPIRED)
        if not isinstance(command.action, ReleaseQuarantine):
            self._not_paused()
        match command.action, command.target:
            case KillProcess(), ProcessTarget() as target:
                return self._kill(command, target)
            case KillProcessGroup(), ProcessTarget() as target:
                return (*self.kills.group(command, target), ())
            case KillProcessTree(), ProcessTarget() as target:
                gone = again and self._is_gone(target.process)
                return (*(self.kills.finish(command) if gone else self.kills.tree(command, target)), ())
            case KillPod() as action, PodTarget() as target:
                return (*self.kills.pod(command, target, action), ())
            case ReniceProcess(priority=priority), ProcessTarget() as target:
                return self._renice(command, target, priority)
            case Quarantine() as action, NetworkTarget() as target:
                facts, closed = self.quarantines.close(command, action, target, self._clock())
                return OutcomeStatus.DONE, None, "", facts, (closed,)
            case ReleaseQuarantine(), NetworkTarget() as target:
                return self._open(command, target)
            case action, _:
                raise Refused(Reason.NO_TARGET, f"{word(action)} cannot be done to a {_kind(command)}")

    def _kill(self, command: Command, target: ProcessTarget) -> _Result:
        taken = self._taken(command)
        process, facts = self._find(target) if taken is None else (taken.process, taken.facts)
        told, again = told_of(facts), self.ledger.begun(command.id)
        try:
            self.ledger.begin(command, sync=False)
            if command.evidence is not None:
                told |= gathered(self._gatherer, command, self.kernel, [(facts, process)], again=again)
                # The kill waited: what it executes, and whether it is protected, may be otherwise by now.
                self._not_paused()
                self._prove(process, target, facts.process.pid or 0, from_first_sight=True)
            point("agent.before-action")
            started = time.perf_counter()
            self.kernel.kill(process)
            return self._waited(process, told, started)
        except ProcessLookupError:
            return OutcomeStatus.GONE, Reason.GONE, "it ended by itself", _of_evidence(told), ()
        except Refused as refused:
            return refused.status, refused.reason, str(refused), _of_evidence(told), ()
        finally:
            self.kernel.close(process)

    def _ended(self, struck: _Struck) -> _Result:
        """What became of a kill whose signal is given."""
        try:
            if struck.error is not None:
                raise struck.error
            return self._waited(struck.process, told_of(struck.facts), struck.at)
        except ProcessLookupError:
            return OutcomeStatus.GONE, Reason.GONE, "it ended by itself", {}, ()
        finally:
            self.kernel.close(struck.process)

    def _waited(self, process: int, told: Told, since: float) -> _Result:
        """How it ended, of a process that has its signal since then (time.perf_counter)."""
        ended = self.kernel.wait_ended(process, KILL_SECONDS)
        told["seconds_to_gone"] = time.perf_counter() - since
        point("agent.after-action")
        if not ended:
            explanation = (
                f"it was killed, and is still there after {KILL_SECONDS:g} s: it hangs in the kernel or is frozen"
            )
            return OutcomeStatus.FAILED, Reason.FAILED, explanation, told, ()
        return OutcomeStatus.DONE, None, "", told, ()

    def _not_paused(self) -> None:
        """Refused: nothing destructive is done now."""
        if self._paused():
            raise Refused(Reason.PAUSED, "destructive actions are paused")

    def _renice(self, command: Command, target: ProcessTarget, priority: int) -> _Result:
        process, facts = self._find(target)
        told, pid = told_of(facts), facts.process.pid or 0
        try:
            # Again after a crash: how it was before is what was noted then, not what the command has made of it.
            before = self.ledger.noted(command.id).get("previous_priority", self.kernel.priority(pid))
            self.ledger.begin(command, noted={"previous_priority": before})
            point("agent.before-action")
            # Linux has no such call on a pidfd. Ended meanwhile, the number may have been another's, which is told.
            self.kernel.renice(pid, priority)
            if self.kernel.wait_ended(process, 0):
                raise ProcessLookupError
            told |= {"previous_priority": before, "priority": priority}
            point("agent.after-action")
        except ProcessLookupError:
            raise Refused(Reason.GONE, "it ended by itself", OutcomeStatus.GONE) from None
        finally:
            self.kernel.close(process)
        return OutcomeStatus.DONE, None, "", told, ()

    def _open(self, command: Command, target: NetworkTarget) -> _Result:
        self.ledger.begin(command)
        point("agent.before-action")
        done = self.quarantines.open(target, command.issued)
        point("agent.after-action")
        facts: dict[str, str | int | float | list[int]] = {"namespaces": done.opened}
        if done.held:
            facts["still_held"] = done.held
        if done.lost and not done.opened and not done.held:
            return OutcomeStatus.GONE, Reason.GONE, "the network namespace is no longer there", facts, (target.key,)
        why = "" if done.opened else "another quarantine still holds it" if done.held else "nothing was closed"
        return OutcomeStatus.DONE, None, why, facts, (target.key,)

    def _taken(self, command: Command) -> _Prepared | None:
        """The target as it was proved a moment ago, on a handle that can mean no other; None: prove it now."""
        with self._lock:
            prepared = self._prepared.pop(command.id, None)
        if prepared is None:
            return None
        if time.monotonic() - prepared.at <= _PREPARED_SECONDS and not self.kernel.wait_ended(prepared.process, 0):
            return prepared
        self.kernel.close(prepared.process)
        return None

    def _find(self, target: ProcessTarget) -> tuple[int, Facts]:
        """A handle of exactly the process meant, and its facts; every reason against it is Refused."""
        pid = target.process.pid
        if pid is None:
            raise Refused(Reason.NO_TARGET, "the event does not say which process")
        kept = self._kept(pid)
        process = self.kernel.adopt_process(kept, pid) if kept is not None else None
        from_first_sight = process is not None
        if process is None:
            process = self.kernel.open_process(pid)
        if process is None:
            raise Refused(Reason.GONE, f"there is no process {pid} any more", OutcomeStatus.GONE)
        try:
            return process, self._prove(process, target, pid, from_first_sight=from_first_sight)
        except BaseException:
            self.kernel.close(process)
            raise

    def _prove(self, process: int, target: ProcessTarget, pid: int, *, from_first_sight: bool) -> Facts:
        facts = self.kernel.facts(pid)
        # The handle is looked at last: while its process lives, the pid is its own, and so are the facts just read.
        if facts is None or self.kernel.wait_ended(process, 0):
            raise Refused(Reason.GONE, f"process {pid} has ended", OutcomeStatus.GONE)
        if not start_disagreement(target.process, facts.process) and (why := self.protected.check(facts)):
            raise Refused(Reason.PROTECTED, f"process {pid} is protected: {why}")
        names = self.kernel.names_of(facts.process.uid or 0, pid) if target.process.user is not None else frozenset()
        why = disagreement(target.process, facts, container_id=target.container_id, names=names)
        if not why and not from_first_sight:
            why = too_fresh(facts.process, target.seen)
        if why:
            raise Refused(Reason.IDENTITY, f"process {pid} cannot be proved to be the one meant: {why}")
        return facts

    def _is_done(self, command: Command) -> bool:
        """Whether what a begun command was to reach is reached: a crash then came before its outcome was written."""
        match command.action, command.target:
            case ((KillProcess() | KillProcessGroup()), ProcessTarget(process=meant)):
                return self._is_gone(meant)
            case KillProcessTree(), ProcessTarget(process=meant):
                return self._is_gone(meant) and not self.kills.has_left(command)
            case _:
                # Closing, opening and a priority are the same done again; a pod that is gone, the action itself knows.
                return False

    def _is_under_way(self, command: Command) -> bool:
        """Whether it was begun in time and waits since: its grace period may be longer than a command may take to come."""
        return isinstance(command.action, KillPod) and "asked_at" in self.ledger.noted(command.id)

    def _is_gone(self, meant: Process) -> bool:
        if meant.pid is None:
            return False
        handle = self.kernel.open_process(meant.pid)
        if handle is None:
            return True
        try:
            facts = self.kernel.facts(meant.pid)
            if facts is None or facts.ended or start_disagreement(meant, facts.process):
                return True
            # Without an executable to be seen it is being torn down, perhaps by the very signal before the crash.
            return facts.process.exe is None and self.kernel.wait_ended(handle, _ENDING_SECONDS)
        finally:
            self.kernel.close(handle)


def _of_evidence(told: Told) -> Told:
    """What was gathered of a process that ended before its kill."""
    return {name: value for name, value in told.items() if name.startswith("evidence")}


def _known(target: Target) -> Told:
    """What was known of a target that is gone: by that it is looked for in what others kept of it."""
    told: dict[str, str | int | float | list[int] | None] = {}
    match target:
        case ProcessTarget() | NetworkTarget():
            process = target.process or Process()
            told |= {"pid": process.pid, "start_ticks": process.start_ticks, "name": process.name, "exe": process.exe}
            if isinstance(target, NetworkTarget):
                told |= {"pod": target.pod_uid, "netns": target.netns}
        case PodTarget():
            told |= {"pod": target.uid, "pod_name": target.name, "namespace": target.namespace}
    told |= {"container": target.container_id, "seen": target.seen}
    return {name: value for name, value in told.items() if value is not None}


def _kind(command: Command) -> str:
    return str(command.target.__struct_config__.tag)
