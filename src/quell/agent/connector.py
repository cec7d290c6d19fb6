"""The kernel's process connector: one datagram for each execution. See linux/connector.h and linux/cn_proc.h.

The kernel sends every fork, exec and exit of the machine to every listener. A classic BPF filter on the socket lets
through only executions (and the answer to our own request), so that nothing else wakes this process or fills its
buffer. The sequence numbers of the messages count what the filter drops as well; what is lost is therefore read from
the socket's own drop counter, which is exact: the kernel raises it for each message that found the buffer full.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from quell.errors import QuellError

_NETLINK_CONNECTOR = 11
_CN_IDX_PROC = 1
_CN_VAL_PROC = 1
_MCAST_LISTEN = 1
_NLMSG_DONE = 3
_EVENT_NONE = 0x0
_EVENT_EXEC = 0x2
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO_WORDS = 9
_MEMINFO_DROPS = 8
#: struct nlmsghdr (16 bytes), struct cn_msg (20), then struct proc_event: what, cpu, nanoseconds, pid, thread group.
_WHAT_AT = 36
_EXEC = struct.Struct("=IIQII")
_REQUEST = struct.Struct("=IHHII" + "IIIIHH" + "I")
_FILTER_STEP = struct.Struct("=HBBI")
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
#: Some 12,000 executions; the kernel takes the memory only while they wait.
_BUFFER_BYTES = 8 << 20
_LONGEST_MESSAGE = 4096
_ANSWER_SECONDS = 1.0


class ConnectorError(QuellError):
    """The process connector cannot be used here; the message says why."""


class Execution(NamedTuple):
    pid: int
    #: The kernel's stamp, CLOCK_MONOTONIC seconds.
    monotonic: float


class Connector:
    """A listening socket. Close it when done."""

    def __init__(self, buffer_bytes: int = _BUFFER_BYTES) -> None:
        """Raises ConnectorError without CAP_NET_ADMIN, or outside the first pid and user namespace."""
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_CONNECTOR
            )
        except OSError as error:
            raise ConnectorError(f"this kernel has no process connector: {error.strerror}") from error
        self._dropped = 0
        try:
            self._grow(buffer_bytes)
            self._attach_filter()
            self._socket.bind((0, _CN_IDX_PROC))
            self._listen()
        except OSError as error:
            self._socket.close()
            needs = "it needs CAP_NET_ADMIN" if error.errno in {errno.EPERM, errno.EACCES} else error.strerror
            raise ConnectorError(f"the process connector refused to listen: {needs}") from error
        except ConnectorError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self, limit: int = 256) -> Iterator[Execution]:
        """Executions that wait, at most so many, without blocking."""
        for _ in range(limit):
            try:
                message = self._socket.recv(_LONGEST_MESSAGE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue  # said once when the buffer overflows; lost() has the number
            what, _, stamp, _, thread_group = _EXEC.unpack_from(message, _WHAT_AT)
            if what == _EVENT_EXEC:
                yield Execution(thread_group, stamp / 1e9)

    def lost(self) -> int:
        """How many executions the kernel could not deliver since the last call."""
        memory = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * _MEMINFO_WORDS)
        dropped: int = struct.unpack_from("=I", memory, 4 * _MEMINFO_DROPS)[0]
        fresh = (dropped - self._dropped) & 0xFFFFFFFF
        self._dropped = dropped
        return fresh

    def _grow(self, size: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except OSError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def _attach_filter(self) -> None:
        steps = (
            (_LOAD_WORD, 0, 0, _WHAT_AT),
            (_JUMP_EQUAL, 1, 0, socket.htonl(_EVENT_EXEC)),
            (_JUMP_EQUAL, 0, 1, _EVENT_NONE),
            (_RETURN, 0, 0, 0xFFFFFFFF),
            (_RETURN, 0, 0, 0),
        )
        program = ctypes.create_string_buffer(b"".join(_FILTER_STEP.pack(*step) for step in steps))
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(steps), ctypes.addressof(program))
        )

    def _listen(self) -> None:
        body = struct.pack("=I", _MCAST_LISTEN)
        token = int.from_bytes(os.urandom(4), sys.byteorder)
        self._socket.send(
            _REQUEST.pack(
                _REQUEST.size,
                _NLMSG_DONE,
                0,
                0,
                os.getpid(),
                _CN_IDX_PROC,
                _CN_VAL_PROC,
                token,
                0,
                len(body),
                0,
                _MCAST_LISTEN,
            )
        )
        # The kernel is silent to a request from an inner pid or user namespace; an answer is the only proof.
        deadline = time.monotonic() + _ANSWER_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            select.select([self._socket], [], [], left)
            with contextlib.suppress(BlockingIOError):
                message = self._socket.recv(_LONGEST_MESSAGE)
                if struct.unpack_from("=I", message, _WHAT_AT)[0] == _EVENT_NONE:
                    return
        raise ConnectorError("the kernel does not answer: not in the machine's first pid and user namespace")
