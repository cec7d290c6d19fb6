"""A file system served by a process (FUSE) that answers no question about its file once that was opened.

    python -m tests.system.served MOUNTPOINT PROGRAM USER

Beside the mount point, a file `asked` is made when there was such a question: whoever put it now waits. The file system holds
one file, `nc`, with the bytes of PROGRAM, and belongs to USER, whom alone it serves. linux/fuse.h, version 7.31.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _INIT, _INTERRUPT, _BATCH_FORGET = 1, 2, 3, 14, 15, 26, 36, 42
_ROOT, _FILE = 1, 2
_DETACH = 2


@contextmanager
def served(folder: Path, program: str | Path, user: int = 0) -> Iterator[Path]:
    """The path of the file."""
    folder.mkdir()
    words = [sys.executable, "-m", "tests.system.served", str(folder), str(program), str(user)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            said = server.stdout.readline()
            if said == b"refused\n":
                pytest.skip("this root may not mount a file system")
            assert said == b"mounted\n"
            yield folder / "nc"
        finally:
            # Whoever still waits for an answer is told that there is nobody.
            server.kill()
            server.wait()
            ctypes.CDLL(None).umount2(os.fsencode(folder), _DETACH)


def asked(file: Path) -> Path:
    """There once somebody waits for an answer about the file."""
    return file.parent.with_name("asked")


def _main(folder: str, program: str, user: int) -> None:
    content = Path(program).read_bytes()
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode={stat.S_IFDIR:o},user_id={user},group_id={user}"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"served", os.fsencode(folder), b"fuse", 0, options.encode()):
        if ctypes.get_errno() != errno.EPERM:
            raise OSError(ctypes.get_errno(), "mount")
        sys.stdout.write("refused\n")
        return
    sys.stdout.write("mounted\n")
    sys.stdout.flush()
    opened = False
    while True:
        request = os.read(device, 1 << 20)
        _, operation, unique, node = struct.unpack_from("=IIQQ", request)
        body, answer, error = request[40:], b"", 0
        if operation in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            continue
        if operation == _GETATTR and node == _FILE and opened:
            asked(Path(folder) / "nc").touch()
            continue
        if operation == _INIT:
            answer = struct.pack("=IIIIHHIIHHI28x", 7, 31, 0, 0, 8, 6, 1 << 17, 1, 0, 0, 0)
        elif operation == _LOOKUP and body.rstrip(b"\0") == b"nc":
            # Good for no time, so that it is asked for each time.
            answer = struct.pack("=QQQQII", _FILE, 0, 0, 0, 0, 0) + _attributes(_FILE, len(content), user)
        elif operation == _GETATTR:
            answer = struct.pack("=QII", 0, 0, 0) + _attributes(node, len(content), user)
        elif operation == _OPEN:
            opened = True
            answer = struct.pack("=QII", 1, 0, 0)
        elif operation == _READ:
            _, start, size = struct.unpack_from("=QQI", body)
            answer = content[start : start + size]
        else:
            error = -errno.ENOENT if operation == _LOOKUP else -errno.ENOSYS
        os.write(device, struct.pack("=IiQ", 16 + len(answer), error, unique) + answer)


def _attributes(node: int, size: int, user: int) -> bytes:
    mode = stat.S_IFDIR | 0o755 if node == _ROOT else stat.S_IFREG | 0o755
    return struct.pack("=QQQQQQIIIIIIIIII", node, size, 1, 0, 0, 0, 0, 0, 0, mode, 1, user, user, 0, 4096, 0)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
