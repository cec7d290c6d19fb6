"""What /proc says of one process, for evidence: read before it is killed, with its secrets hidden at once.

Everything is read through one open directory of /proc, which the kernel ties to that process instance: once it is gone the
reads fail, so that evidence is never another process's. Each part is read by itself; one that cannot be is missing, and why.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Self

from msgspec.structs import replace

from quell.agent import proc
from quell.agent.cgroup import placement
from quell.agent.proc import HZ, parse_exe, parse_stat
from quell.model.evidence import Executable, OpenFile, OpenSocket, ProcessEvidence, Relative
from quell.secrets import redact_arguments, redact_environment, redact_text

#: Most of each that is kept, and characters of one text. What is left out is counted.
MOST_FILES, MOST_SOCKETS, MOST_MAPPED, MOST_VARIABLES, MOST_ARGUMENTS = 2048, 2048, 512, 512, 256
LONGEST = 4096
#: Open files that are looked at: a process may have a million.
_MOST_LOOKED_AT = 16_384
#: Bytes read of a command line or an environment, of the command line of one that is only named, and of a list of sockets
#: or of what is mapped.
_TEXT, _SHORT_TEXT, _LIST = 256 << 10, 4 << 10, 4 << 20
#: Characters of a text that are searched for secrets, beside those that are kept: one that begins in these may end there.
_MARGIN = 1024

#: Fields of /proc/PID/status that are told.
_STATUS = frozenset(
    [
        "Name",
        "State",
        "Tgid",
        "Pid",
        "PPid",
        "TracerPid",
        "Uid",
        "Gid",
        "Groups",
        "NStgid",
        "NSpid",
        "VmPeak",
        "VmRSS",
        "Threads",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
    ]
)
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_ACCESS = {os.O_RDONLY: "read", os.O_WRONLY: "write", os.O_RDWR: "read-write"}
#: Lists of sockets in /proc/PID/net. Of those with ports: the inode's field is the tenth.
_WITH_PORTS = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
_STATES = (
    *(
        "",
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
    ),
    *("LISTEN", "CLOSING", "NEW_SYN_RECV"),
)
_SOCKET = "socket:["


class Reader:
    """Of one process. A context: at its end the directory is closed; the executable, if it was opened, is the caller's."""

    def __init__(self, pid: int) -> None:
        """OSError: there is no such process."""
        self._directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._pid = pid
        self._inodes: dict[int, int] = {}
        #: Part -> why it is missing or not whole.
        self.missing: dict[str, str] = {}
        #: Of its executable; -1: it was not opened.
        self.executable = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._directory)

    @property
    def start_ticks(self) -> int:
        """Which instance it is. OSError: it is gone."""
        return parse_stat(self._read("stat", 1024)).start_ticks

    def parts(self) -> Iterator[tuple[str, Callable[[ProcessEvidence], ProcessEvidence]]]:
        """The parts by name, in the order of their weight: each adds what it reads. It raises OSError for what it cannot."""
        yield "executable", lambda told: replace(told, executable=self._open_executable())
        yield "arguments", lambda told: replace(told, arguments=self._arguments())
        yield "environment", lambda told: replace(told, environment=self._environment())
        yield "files", lambda told: replace(told, files=self._files())
        yield "sockets", lambda told: replace(told, sockets=self._sockets())
        yield "mapped", lambda told: replace(told, mapped=self._mapped())

    def facts(self) -> ProcessEvidence:
        """All that is read at no cost. OSError: the process is gone."""
        read = parse_stat(self._read("stat", 1024))
        place = placement(self._read("cgroup", _TEXT))
        link = self._link("exe")
        return ProcessEvidence(
            pid=self._pid,
            start_ticks=read.start_ticks,
            start_time=proc.boot_time() + read.start_ticks / HZ,
            boot_id=proc.boot_id(),
            name=read.name,
            ppid=read.ppid,
            pgid=read.pgid,
            sid=read.sid,
            exe=_shorten(parse_exe(link)[0]) if link else None,
            cwd=_shown(self._link("cwd")),
            root=_shown(self._link("root")),
            container_id=place.container_id,
            pod_uid=place.pod_uid,
            status=_status(self._read("status", _TEXT)),
            cgroups=tuple(map(_shorten, place.paths)),
            namespaces=self._namespaces(),
        )

    def relative(self, relation: str) -> Relative:
        """The same process in short. OSError: it is gone."""
        read = parse_stat(self._read("stat", 1024))
        link = self._link("exe")
        return Relative(
            relation=relation,
            pid=self._pid,
            ppid=read.ppid,
            pgid=read.pgid,
            sid=read.sid,
            start_ticks=read.start_ticks,
            name=read.name,
            exe=_shorten(parse_exe(link)[0]) if link else None,
            arguments=self._arguments(_SHORT_TEXT),
            uid=os.stat(".", dir_fd=self._directory).st_uid,
        )

    def _open_executable(self) -> Executable:
        link = self._link("exe")
        self.executable = os.open("exe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._directory)
        found = os.fstat(self.executable)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is no regular file")
        path, content = parse_exe(link or b"")
        return Executable(
            path=path,
            size=found.st_size,
            mode=stat.S_IMODE(found.st_mode),
            uid=found.st_uid,
            gid=found.st_gid,
            modified=found.st_mtime,
            device=found.st_dev,
            inode=found.st_ino,
            content=content,
        )

    def _arguments(self, limit: int = _TEXT) -> tuple[str, ...]:
        read = _texts(self._text("arguments", "cmdline", limit))
        self._cut("arguments", len(read), MOST_ARGUMENTS)
        return tuple(_hidden(read[:MOST_ARGUMENTS], redact_arguments))

    def _environment(self) -> dict[str, str]:
        read = [each.partition("=") for each in _texts(self._text("environment", "environ", _TEXT)) if "=" in each]
        self._cut("environment", len(read), MOST_VARIABLES)
        kept = read[:MOST_VARIABLES]

        def redact(values: list[str]) -> Iterable[str]:
            return [redact_environment({name: value})[name] for (name, _, _), value in zip(kept, values, strict=True)]

        values = _hidden([value for _, _, value in kept], redact)
        return {_shorten(name): value for (name, _, _), value in zip(kept, values, strict=True)}

    def _files(self) -> tuple[OpenFile, ...]:
        """Those that are no sockets, which are kept for the list of them."""
        found: list[OpenFile] = []
        count = 0
        folder = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
        about = os.open("fdinfo", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            names = [each.name for each in itertools.islice(os.scandir(folder), _MOST_LOOKED_AT + 1)]
            if len(names) > _MOST_LOOKED_AT:
                self.missing["files"] = self.missing["sockets"] = f"more than {_MOST_LOOKED_AT} are open"
            for name in sorted(names[:_MOST_LOOKED_AT], key=int):
                try:
                    # Bytes: what is no text would be one that cannot be written.
                    path = os.readlink(name.encode(), dir_fd=folder).decode(errors="backslashreplace")
                except FileNotFoundError:
                    continue  # closed meanwhile
                if path.startswith(_SOCKET):
                    self._inodes[int(name)] = int(path[len(_SOCKET) : -1])
                    continue
                count += 1
                if count <= MOST_FILES:
                    access, position = _opened(name, about)
                    found.append(OpenFile(fd=int(name), path=_shorten(path), access=access, position=position))
        finally:
            os.close(folder)
            os.close(about)
        self._cut("files", count, MOST_FILES)
        return tuple(found)

    def _sockets(self) -> tuple[OpenSocket, ...]:
        """After the files. What is in no list of its network namespace has no protocol."""
        if not self._inodes:
            return ()
        self._cut("sockets", len(self._inodes), MOST_SOCKETS)
        wanted = dict(list(self._inodes.items())[:MOST_SOCKETS])
        known = self._known_sockets(set(wanted.values()))
        return tuple(
            replace(known[inode], fd=fd) if inode in known else OpenSocket(fd=fd, inode=inode)
            for fd, inode in sorted(wanted.items())
        )

    def _known_sockets(self, inodes: set[int]) -> dict[int, OpenSocket]:
        found: dict[int, OpenSocket] = {}
        for name in (*_WITH_PORTS, "unix", "packet"):
            if inodes <= found.keys():
                break
            try:
                lines = self._read(f"net/{name}", _LIST).splitlines()[1:]
            except FileNotFoundError:
                continue  # no such family here
            for line in lines:
                each = _socket(name, line.split())
                if each is not None and each.inode in inodes:
                    found[each.inode] = each
        return found

    def _mapped(self) -> tuple[str, ...]:
        paths: dict[str, None] = {}
        for line in self._read("maps", _LIST).splitlines():
            fields = line.split(None, 5)
            if len(fields) == 6 and fields[5].startswith(b"/"):
                paths[fields[5].decode(errors="backslashreplace")] = None
        self._cut("mapped", len(paths), MOST_MAPPED)
        return tuple(map(_shorten, list(paths)[:MOST_MAPPED]))

    def _namespaces(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for kind in _NAMESPACES:
            try:
                found[kind] = os.stat(f"ns/{kind}", dir_fd=self._directory).st_ino
            except OSError:
                continue  # none of this kind in this kernel, or not to be seen
        return found

    def _text(self, part: str, name: str, limit: int) -> bytes:
        """As _read, of texts that end with a zero."""
        read = self._read(name, limit)
        if len(read) == limit:
            self.missing[part] = f"only the first {limit} bytes were read"
        return read

    def _cut(self, part: str, count: int, most: int) -> None:
        if count > most:
            self.missing[part] = f"{count} there are, the first {most} were kept"

    def _link(self, name: str) -> bytes | None:
        try:
            return os.readlink(name.encode(), dir_fd=self._directory)
        except OSError:
            return None

    def _read(self, name: str, limit: int) -> bytes:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            parts = []
            while limit > 0 and (part := os.read(file, min(limit, 1 << 20))):
                parts.append(part)
                limit -= len(part)
            return b"".join(parts)
        finally:
            os.close(file)


def _opened(name: str, about: int) -> tuple[str, int | None]:
    """How a file was opened, and where it stands."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=about)
    except OSError:
        return "", None
    try:
        said = dict(line.split(b":", 1) for line in os.read(file, 512).splitlines() if b":" in line)
    except OSError:
        return "", None
    finally:
        os.close(file)
    flags = int(said.get(b"flags", b"0"), 8)
    return _ACCESS.get(flags & os.O_ACCMODE, ""), int(said.get(b"pos", b"0"))


def _status(text: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in text.decode(errors="backslashreplace").splitlines())
    return {name: _shorten(" ".join(value.split())) for name, _, value in lines if name in _STATUS}


def _socket(protocol: str, fields: list[bytes]) -> OpenSocket | None:
    """One line of a list of sockets; None: it is not understood."""
    try:
        if protocol == "packet":
            return OpenSocket(fd=-1, inode=int(fields[8]), protocol=protocol, local=f"interface {int(fields[4])}")
        if protocol == "unix":
            path = fields[7].decode(errors="backslashreplace") if len(fields) > 7 else ""
            return OpenSocket(fd=-1, inode=int(fields[6]), protocol=protocol, local=_shorten(path))
        state = _STATES[int(fields[3], 16)] if protocol.startswith("tcp") else ""
        local, remote = _address(fields[1]), _address(fields[2])
        return OpenSocket(fd=-1, inode=int(fields[9]), protocol=protocol, local=local, remote=remote, state=state)
    except (IndexError, ValueError):
        return None


def _address(text: bytes) -> str:
    """Of /proc/net/tcp: words in the machine's byte order. "": none."""
    address, _, port = text.partition(b":")
    raw = b"".join(int(address[n : n + 8], 16).to_bytes(4, sys.byteorder) for n in range(0, len(address), 8))
    if not any(raw) and not int(port, 16):
        return ""
    if len(raw) == 4:
        return f"{socket.inet_ntoa(raw)}:{int(port, 16)}"
    return f"[{ipaddress.IPv6Address(raw)}]:{int(port, 16)}"


def _texts(raw: bytes) -> list[str]:
    return [each.decode(errors="backslashreplace") for each in raw.removesuffix(b"\0").split(b"\0")] if raw else []


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text) - LONGEST} more)"


def _hidden(texts: list[str], redact: Callable[[list[str]], Iterable[str]]) -> list[str]:
    """The texts without their secrets, shortened. No more of them is searched than may be kept: an attacker chose them."""
    most = LONGEST + _MARGIN
    shown = redact([text[:most] for text in texts])
    return [
        f"{one[:LONGEST]}... ({len(text) - LONGEST} more)" if len(text) > most and len(one) > LONGEST else _shorten(one)
        for text, one in zip(texts, shown, strict=True)
    ]


def _shown(path: bytes | None) -> str | None:
    if path is None:
        return None
    [shown] = _hidden([path.decode(errors="backslashreplace")], lambda texts: map(redact_text, texts))
    return shown


def why(error: OSError) -> str:
    """Why a part could not be read, in a few words."""
    if isinstance(error, FileNotFoundError | ProcessLookupError):
        return "the process ended while it was read"
    if isinstance(error, PermissionError):
        return "the agent lacks the privilege to read it"
    return error.strerror or str(error)
