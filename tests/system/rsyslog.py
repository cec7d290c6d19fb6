"""A real rsyslog with a configuration, ports on loopback and files of its own."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from tests.syslogs import Message, parse
from tests.system.running import free_port, wait_for

PROGRAM = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin:/sbin:/bin")

needed = pytest.mark.skipif(PROGRAM is None, reason="rsyslogd is not installed (deploy/setup.sh test, as root)")

_CONFIGURATION = """
global(workDirectory="{folder}" maxMessageSize="70k" net.enableDNS="off" {tls})
module(load="imudp")
module(load="imtcp" {driver})
template(name="seen" type="list" option.jsonf="on") {{
    property(outname="by" name="inputname" format="jsonf")
    property(outname="facility" name="syslogfacility-text" format="jsonf")
    property(outname="severity" name="syslogseverity" format="jsonf")
    property(outname="host" name="hostname" format="jsonf")
    property(outname="app" name="app-name" format="jsonf")
    property(outname="msgid" name="msgid" format="jsonf")
    property(outname="data" name="structured-data" format="jsonf")
    property(outname="msg" name="msg" format="jsonf")
    property(outname="raw" name="rawmsg" format="jsonf")
}}
ruleset(name="all") {{ action(type="omfile" file="{folder}/seen" template="seen") }}
input(type="imudp" address="127.0.0.1" port="{udp}" ruleset="all" name="udp")
input(type="imtcp" address="127.0.0.1" port="{tcp}" ruleset="all" name="tcp" streamDriver.name="ptcp")
{tls_input}
"""
_TLS = """input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="all" name="tls" streamDriver.name="ossl"
      streamDriver.mode="1" streamDriver.authMode="{mode}")"""


class Seen(Struct, frozen=True):
    """A message as rsyslog understood it. by: the input it came through: udp, tcp or tls."""

    by: str
    facility: str
    severity: str
    host: str
    app: str
    msgid: str
    data: str
    msg: str
    raw: str

    @property
    def message(self) -> Message:
        return parse(self.raw.encode())


class Rsyslog:
    def __init__(self, folder: Path, *, tls: tuple[Path, Path, Path] | None = None, clients: bool = False) -> None:
        """tls: CA, certificate and key. clients: those of TLS must show a certificate of the CA."""
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self.udp, self.tcp, self.tls = _free_udp_port(), free_port(), free_port()
        files = names = driver = ""
        if tls is not None:
            keys = ("defaultNetstreamDriverCAFile", "defaultNetstreamDriverCertFile", "defaultNetstreamDriverKeyFile")
            files = " ".join(f'{key}="{path}"' for key, path in zip(keys, tls, strict=True))
            driver = 'streamDriver.name="ossl"'
            names = _TLS.format(port=self.tls, mode="x509/certvalid" if clients else "anon")
        self._conf = folder / "rsyslog.conf"
        self._conf.write_text(
            _CONFIGURATION.format(folder=folder, tls=files, driver=driver, udp=self.udp, tcp=self.tcp, tls_input=names)
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = _started(self._folder, self._conf)
        wait_for(lambda: _listens(self._process, self.tcp, self._folder), what="rsyslog")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None

    def close(self) -> None:
        if sys.exc_info()[0] is not None:
            sys.stdout.write((self._folder / "log").read_text()[-3000:])
        self.stop(signal.SIGKILL)

    @property
    def seen(self) -> list[Seen]:
        path = self._folder / "seen"
        if not path.exists():
            return []
        lines = path.read_text().split("\n")
        # The last line may be being written; it is whole once a line's end follows.
        return [_seen(json.loads(line)) for line in lines[:-1]]


def own_rsyslog(folder: Path, configuration: str, port: int) -> subprocess.Popen[bytes]:
    """One with a whole configuration of the caller's, once it listens on that port of TCP."""
    conf = folder / "own.conf"
    conf.write_text(configuration)
    process = _started(folder, conf)
    try:
        wait_for(lambda: _listens(process, port, folder), what="rsyslog")
    except TimeoutError as error:
        process.kill()
        raise TimeoutError(f"{error}: {(folder / 'log').read_text()}") from error
    return process


def _started(folder: Path, conf: Path) -> subprocess.Popen[bytes]:
    assert PROGRAM is not None
    with (folder / "log").open("ab") as log:
        command = [PROGRAM, "-n", "-f", str(conf), "-i", str(folder / "pid")]
        return subprocess.Popen(command, stdout=log, stderr=log)


def _listens(process: subprocess.Popen[bytes] | None, port: int, folder: Path) -> bool:
    assert process is not None
    assert process.poll() is None, (folder / "log").read_text()
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def _seen(fields: dict[str, Any]) -> Seen:
    return Seen(**fields)


def _free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
