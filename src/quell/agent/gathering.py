"""Evidence before a kill: gathered in time or left, kept on the agent's disk until the controller has it. SEMANTICS 3, 8.

The processes are read in a thread of its own, so that the kill waits for so long as its command says and no longer, whatever
the kernel or a file system does meanwhile. What was read is written before the signal, so that it survives the end of the
agent; only power lost at that very moment takes it. Of the executable a handle is taken
before and its content is read after, since it stays what it is: no kill waits for that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog
from msgspec.structs import replace

from quell.agent import proc
from quell.agent.evidence import Reader, why
from quell.agent.kernel import Kernel
from quell.agent.members import Told
from quell.agent.proc import Facts
from quell.agent.tree import offspring
from quell.model.decision import Command
from quell.model.evidence import EvidenceBounds, Executable, Gathered, ProcessEvidence, Relative

#: Processes of a pod that are looked at in full, and others that are named.
MOST_PROCESSES, MOST_RELATIVES = 8, 256
#: Bytes of the facts of one command: they go in one frame of the link.
MOST_FACTS = 768 << 10
#: Bytes of an executable that are hashed.
MOST_HASHED = 512 << 20
#: Bytes of evidence that waits for the controller; the oldest goes first.
_MOST_KEPT = 256 << 20
#: Gatherings at once, those that hang included.
AT_ONCE = 8
_PART = 256 << 10

#: Names in a folder of the spool: what was read, before the executables are; everything; copies are named by their hash.
_BEGUN, FACTS = "begun.json", "facts.json"

_log = structlog.get_logger(__name__)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Gathered).decode


#: A process: its pid, and its start in ticks.
Instance = tuple[int, int]


class Meant(NamedTuple):
    """A proven process. lives: on the handle that it was proved by."""

    pid: int
    start_ticks: int
    lives: Callable[[], bool]


class _Work:
    """One gathering, as it grows. Everything but done is to be touched with the lock held."""

    def __init__(self, command: Command, bounds: EvidenceBounds, now: float) -> None:
        self.id = command.id
        self.bounds = bounds
        self.begun = now
        self.started = time.monotonic()
        self.lock = threading.Lock()
        #: Everything was read, and is on disk.
        self.done = threading.Event()
        #: The kill did not wait any longer: what comes now is left.
        self.late = False
        self.seconds = 0.0
        self.processes: dict[int, ProcessEvidence] = {}
        self.relatives: tuple[Relative, ...] = ()
        #: By pid: a handle of its executable.
        self.executables: dict[int, int] = {}
        self.read: list[str] = []
        self.missing: dict[str, str] = {}

    def is_late(self) -> bool:
        return self.late

    def gathered(self) -> Gathered:
        return Gathered(
            id=self.id,
            time=self.begun,
            seconds=self.seconds,
            processes=tuple(self.processes.values()),
            relatives=self.relatives,
            missing=dict(self.missing),
        )

    def told(self) -> Told:
        """For the outcome: no value of what was read, only what it is."""
        told: Told = {"evidence_seconds": self.seconds}
        if self.read:
            told["evidence"] = ", ".join(dict.fromkeys(self.read))
        if self.missing:
            told["evidence_missing"] = "; ".join(f"{part}: {reason}" for part, reason in self.missing.items())
        return told


def gathered(
    gatherer: Gatherer | None,
    command: Command,
    kernel: Kernel,
    meant: Sequence[tuple[Facts, int]],
    members: Sequence[Instance] = (),
    *,
    again: bool = False,
) -> Told:
    """As Gatherer.gather, of proven processes and their handles: what the outcome says of it. again: the command was begun
    before a restart; whatever stopped the agent then is not tried a second time.
    """
    if command.evidence is None:
        return {}
    if again:
        return {"evidence_missing": "everything: the agent ended while it did this; what it had written before is kept"}
    if gatherer is None:
        return {"evidence_missing": "everything: this agent gathers none"}
    proven = [
        Meant(facts.process.pid or 0, facts.process.start_ticks or 0, partial(_lives, kernel, process))
        for facts, process in meant
    ]
    return gatherer.gather(command, proven, members)


def _lives(kernel: Kernel, process: int) -> bool:
    return not kernel.wait_ended(process, 0)


#: What is read of each process, by the names that outcomes have.
_PARTS = ("facts", "executable", "arguments", "environment", "files", "sockets", "mapped")
_TREE = "tree"


class Gatherer:
    """Safe to use from several threads."""

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], float] = time.time,
        on_ready: Callable[[str], None] = lambda _name: None,
    ) -> None:
        """folder: of the spool. on_ready: called in some thread with the name of a folder in it that is whole. OSError."""
        self.folder = folder
        self._clock = clock
        self._on_ready = on_ready
        self._free = threading.Semaphore(AT_ONCE)
        self._room = threading.Lock()
        folder.mkdir(mode=0o700, exist_ok=True)
        for begun in sorted(folder.glob(f"*/{_BEGUN}")):
            _take_up(begun)

    def gather(self, command: Command, meant: Sequence[Meant], members: Sequence[Instance] = ()) -> Told:
        """Before the signal; it takes the command's time at most and never raises. members: who is ended as well."""
        bounds = command.evidence
        if bounds is None:
            return {}
        work = _Work(command, bounds, self._clock())
        if not self._free.acquire(blocking=False):
            return {"evidence_missing": f"everything: {AT_ONCE} others are being gathered"}
        try:
            run = threading.Thread(
                target=self._run, args=(work, tuple(meant), tuple(members)), name="evidence", daemon=True
            )
            run.start()
        except RuntimeError as error:
            self._free.release()
            return {"evidence_missing": f"everything: {error}"}
        work.done.wait(bounds.wait)
        with work.lock:
            if not work.done.is_set():
                work.late = True
                work.seconds = time.monotonic() - work.started
                for part in (*_PARTS, _TREE):
                    if part not in work.read and part not in work.missing:
                        work.missing[part] = f"not within {bounds.wait * 1000:g} ms"
            return work.told()

    def _run(self, work: _Work, meant: tuple[Meant, ...], members: tuple[Instance, ...]) -> None:
        """In a thread."""
        name = spool_name(work.id)
        try:
            try:
                for each in meant[:MOST_PROCESSES]:
                    self._read(work, each)
                if len(meant) > MOST_PROCESSES:
                    work.missing["processes"] = f"{len(meant)} there are, the first {MOST_PROCESSES} were looked at"
                self._read_tree(work, meant, members)
                self._keep_begun(work, name)
            except Exception as error:
                with work.lock:
                    if not work.late:
                        # The outcome must not say that there is what nobody will find.
                        reason = why(error) if isinstance(error, OSError) else type(error).__name__
                        work.read.clear()
                        work.missing["everything"] = f"it could not be kept: {reason}"
                raise
            finally:
                with work.lock:
                    if not work.late:
                        work.seconds = time.monotonic() - work.started
                    work.done.set()
            self._finish(work, name)
        except Exception:  # noqa: BLE001 - the last frame of a thread: nobody else would learn of it
            _log.exception("evidence could not be gathered", id=work.id)
        finally:
            for file in work.executables.values():
                os.close(file)
            self._free.release()
        self._on_ready(name)

    def _read(self, work: _Work, meant: Meant) -> None:
        try:
            with Reader(meant.pid) as reader:
                # The handle is looked at last: while its process lives the number is its own, and so is what was opened.
                if reader.start_ticks != meant.start_ticks or not meant.lives():
                    raise ProcessLookupError
                told = reader.facts()
                self._take(work, "facts", told)
                for part, read in reader.parts():
                    if work.is_late():
                        break
                    try:
                        told = read(told)
                    except OSError as error:
                        self._miss(work, part, why(error))
                    except (ValueError, LookupError):
                        self._miss(work, part, "what the kernel says is not understood")
                    else:
                        self._take(work, part, told)
                    if reader.executable >= 0:
                        work.executables[meant.pid] = reader.executable  # closed with the others, whatever comes
                for part, reason in reader.missing.items():
                    self._miss(work, part, reason)
        except OSError as error:
            self._miss(work, "facts", why(error))
        executable = None if meant.pid not in work.processes else work.processes[meant.pid].executable
        if executable is not None and executable.size > work.bounds.executable > 0:
            self._miss(work, "copy", f"{executable.size} bytes, copies are kept up to {work.bounds.executable}")

    def _read_tree(self, work: _Work, meant: tuple[Meant, ...], members: tuple[Instance, ...]) -> None:
        if work.is_late():
            return
        table = {pid: stat for pid in proc.pids() if (stat := proc.read_stat(pid)) is not None}
        # Numbers are given away anew: who is not the instance that was looked at is nobody of these.
        found = {pid: "member" for pid, start in members if pid in table and table[pid].start_ticks == start}
        for each in meant:
            above = table.get(each.pid)
            if above is not None and above.start_ticks != each.start_ticks:
                continue
            while above is not None and above.ppid in table and above.ppid not in found:
                found[above.ppid] = "ancestor"
                above = table[above.ppid]
            for pid in offspring(table, {each.pid: each.start_ticks}):
                found.setdefault(pid, "descendant")
        for each in meant:
            found.pop(each.pid, None)
        relatives = []
        for pid, relation in list(found.items())[:MOST_RELATIVES]:
            if work.is_late():
                return
            with contextlib.suppress(OSError), Reader(pid) as reader:
                one = reader.relative(relation)
                if one.start_ticks == table[pid].start_ticks:
                    relatives.append(one)
        with work.lock:
            if not work.late:
                work.relatives = tuple(relatives)
                work.read.append(_TREE)
                if len(found) > MOST_RELATIVES:
                    work.missing[_TREE] = f"{len(found)} there are, the first {MOST_RELATIVES} were kept"

    def _take(self, work: _Work, part: str, told: ProcessEvidence) -> None:
        with work.lock:
            if not work.late:
                work.processes[told.pid] = told
                work.read.append(part)

    def _miss(self, work: _Work, part: str, reason: str) -> None:
        with work.lock:
            if not work.late:
                work.missing.setdefault(part, reason)

    def _keep_begun(self, work: _Work, name: str) -> None:
        """What was read is written before the signal; the agent's end from here on loses no more than the copy. OSError."""
        with work.lock:
            found = work.gathered()
        facts = fitting(found)  # not with the lock held: the kill would wait for it
        self._make_room(name)
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        _write(folder / _BEGUN, facts)

    def _finish(self, work: _Work, name: str) -> None:
        folder = self.folder / name
        for pid, file in work.executables.items():
            told = work.processes.get(pid)
            if told is None or told.executable is None:
                continue
            most = work.bounds.executable if told.executable.size <= work.bounds.executable else 0
            try:
                executable = _hashed(told.executable, file, folder, most=most)
            except OSError as error:
                with work.lock:
                    work.missing["copy"] = error.strerror or str(error)
                continue
            with work.lock:
                work.processes[pid] = replace(told, executable=executable)
        with work.lock:
            found = work.gathered()
        _write(folder / FACTS, fitting(found))
        (folder / _BEGUN).unlink()

    def _make_room(self, name: str) -> None:
        """Evidence that waits too long for a controller makes room for what comes under this name. Others write meanwhile, and
        the link throws away what has arrived.
        """
        with self._room:
            kept: list[tuple[float, int, Path]] = []
            for folder in self.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    sizes = [file.stat().st_size for file in folder.iterdir()]
                    kept.append((folder.stat().st_mtime, sum(sizes), folder))
            kept.sort()
            total = sum(size for _, size, _ in kept)
            for _, size, folder in kept:
                if total <= _MOST_KEPT:
                    break
                if folder.name == name or not (folder / FACTS).exists():
                    continue  # it is being written
                shutil.rmtree(folder, ignore_errors=True)
                total -= size
                _log.warning("evidence was given up, as too much waits for the controller", folder=folder.name)


def spool_name(command_id: str) -> str:
    """The folder of what is gathered for a command: the same when it comes again."""
    return hashlib.blake2b(command_id.encode(), digest_size=16).hexdigest()


def fitting(gathered: Gathered) -> bytes:
    """As JSON of MOST_FACTS bytes at most: the longest lists are cut until it is, and that is said."""
    while len(facts := _encode(gathered)) > MOST_FACTS:
        shorter = _shorter(gathered)
        if shorter == gathered:
            missing = {"everything": f"it does not fit into {MOST_FACTS} bytes"}
            return _encode(Gathered(id=gathered.id, time=gathered.time, seconds=gathered.seconds, missing=missing))
        gathered = shorter
    return facts


def _shorter(gathered: Gathered) -> Gathered:
    """Without half of its largest part."""
    sizes = [
        (len(_encode(getattr(process, part))), n, part)
        for n, process in enumerate(gathered.processes)
        for part in ("arguments", "environment", "files", "sockets", "mapped")
        if getattr(process, part)
    ]
    largest, n, part = max(sizes, default=(0, 0, ""))
    if len(_encode(gathered.relatives)) >= largest:
        kept = gathered.relatives[: len(gathered.relatives) // 2]
        return replace(gathered, relatives=kept, missing=gathered.missing | {_TREE: f"only the first {len(kept)} fit"})
    process = gathered.processes[n]
    whole = getattr(process, part)
    most = len(whole) // 2
    half = dict(list(whole.items())[:most]) if isinstance(whole, dict) else whole[:most]
    processes = list(gathered.processes)
    processes[n] = replace(process, **{part: half})
    missing = gathered.missing | {part: f"only the first {most} fit"}
    return replace(gathered, processes=tuple(processes), missing=missing)


def _hashed(told: Executable, file: int, folder: Path, *, most: int) -> Executable:
    """With its hash and, where it has at most so many bytes (0: none), a copy in the folder under that. OSError."""
    digest, size = hashlib.sha256(), 0
    fresh = folder / "copy"
    with open(fresh, "wb", opener=_private) as copy:
        while part := os.pread(file, _PART, size):
            digest.update(part)
            size += len(part)
            if size > MOST_HASHED:
                return told
            if size <= most:
                copy.write(part)
    copied = 0 < size <= most
    if copied:
        fresh.rename(folder / digest.hexdigest())
    else:
        fresh.unlink()
    return replace(told, sha256=digest.hexdigest(), size=size, copied=copied)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _take_up(begun: Path) -> None:
    """What a crash left before the executable was read."""
    try:
        gathered = _decode(begun.read_bytes())
        missing = gathered.missing | {"copy": "the agent ended before the executable was read"}
        _write(begun.with_name(FACTS), fitting(replace(gathered, missing=missing)))
        begun.unlink()
    except (OSError, msgspec.MsgspecError) as error:
        _log.warning("evidence that a crash left cannot be read", folder=begun.parent.name, error=str(error))
        shutil.rmtree(begun.parent, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    """A whole file or none."""
    fresh = path.with_name(f".{path.name}")
    with open(fresh, "wb", opener=_private) as file:
        file.write(content)
    fresh.rename(path)
