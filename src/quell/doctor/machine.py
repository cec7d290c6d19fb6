"""The interpreter, the libraries, the clock, and what runs beside Quell."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import shutil
import socket
import sqlite3
import sys
from pathlib import Path

from quell.doctor.finding import Case, Found, missing, ok, warning

#: Distributions that Quell imports; pyproject.toml says from which version on.
LIBRARIES = (
    "argon2-cffi",
    "cryptography",
    "google-re2",
    "h11",
    "httptools",
    "httpx",
    "jinja2",
    "joserfc",
    "kr8s",
    "litestar",
    "markdown-it-py",
    "msgspec",
    "nh3",
    "prometheus-client",
    "pyyaml",
    "rich",
    "structlog",
    "typer",
    "uvicorn",
    "uvloop",
    "websockets",
    "zstandard",
)
#: STRICT tables.
_SQLITE = (3, 37)
_PYTHON = (3, 11)

_STA_UNSYNC, _TIME_ERROR = 0x40, 5
#: Microseconds of the estimated error above which a clock counts as adrift.
_ADRIFT = 1_000_000

#: A socket, a state folder or a program, and whose it is.
_RUNTIMES = {
    "/var/run/docker.sock": "Docker",
    "/run/containerd/containerd.sock": "containerd",
    "/run/k3s/containerd/containerd.sock": "containerd (k3s)",
    "/run/crio/crio.sock": "CRI-O",
    "/run/podman/podman.sock": "Podman",
}
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


def python(_case: Case) -> Found:
    found = f"{platform.python_implementation()} {platform.python_version()}"
    if sys.version_info[:2] < _PYTHON:
        return missing(found, "Quell is written for Python 3.11 and later.")
    return ok(found, "Quell is written for Python 3.11 and later.")


def libraries(_case: Case) -> Found:
    lacking = [name for name in LIBRARIES if _version(name) is None]
    if lacking:
        return missing(
            f"not installed: {', '.join(lacking)}", "Quell imports them: install it with pip, constraints.txt."
        )
    if sqlite3.sqlite_version_info[:2] < _SQLITE:
        return missing(
            f"SQLite {sqlite3.sqlite_version}",
            "The store needs 3.37 or later (STRICT tables): use a newer Python build.",
        )
    return ok(
        f"all {len(LIBRARIES)} are installed; SQLite {sqlite3.sqlite_version}, msgspec {_version('msgspec')}",
        "constraints.txt lists the versions that Quell is tested with.",
    )


def clock(_case: Case) -> Found:
    """Read only: adjtimex(2) without a mode."""
    why = "Events older than a minute kill nothing, and a clock that is off makes them look older or newer"
    timex = _Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    if state < 0:
        return warning(f"the kernel does not tell: {os.strerror(ctypes.get_errno())}", f"{why}: keep NTP running.")
    if state == _TIME_ERROR or timex.status & _STA_UNSYNC:
        return warning(
            "not synchronised", f"{why}: start chrony, systemd-timesyncd or ntpd, here or on the host of this machine."
        )
    if timex.maxerror > _ADRIFT:
        return warning(f"may be {timex.maxerror / 1e6:.1f} s off", f"{why}: look at chronyc tracking or timedatectl.")
    return ok(f"synchronised, at most {timex.maxerror / 1000:.0f} ms off", f"{why}.")


def runtimes(_case: Case) -> Found:
    why = "The agent learns from container runtimes which containers, images and labels run here"
    found: list[str] = []
    closed: list[str] = []
    for path, name in _RUNTIMES.items():
        if Path(path).exists():
            (found if _connects(path) else closed).append(name)
    if shutil.which("podman") and "Podman" not in found:
        found.append("Podman (its program)")
    if closed:
        return warning(
            f"cannot be asked: {', '.join(closed)}; can: {', '.join(found) or 'none'}",
            f"{why}: start the runtime, and run the agent as root or in the socket's group.",
        )
    return ok(", ".join(found) or "none here", f"{why}; where there is none it has nothing to learn.")


def kubernetes(_case: Case) -> Found:
    why = "The controller learns pods, labels and services from the Kubernetes API"
    inside = "KUBERNETES_SERVICE_HOST" in os.environ
    if inside and not os.access(_SERVICE_ACCOUNT, os.R_OK):
        return missing(
            "in a pod, without a service account's token",
            f"{why}: give its pod a service account that may list and watch.",
        )
    if inside:
        return ok("a pod's service account", f"{why}.")
    named = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(":") if part]
    usual = [path for path in (named or [Path.home() / ".kube" / "config"]) if path.exists()]
    if named and not usual:
        return warning("KUBECONFIG names no file that is there", f"{why}: correct the variable, or unset it.")
    if usual:
        readable = all(os.access(path, os.R_OK) for path in usual)
        told = f"kubeconfig {', '.join(map(str, usual))}, used if kubernetes.enabled is on"
        return ok(told, f"{why}.") if readable else warning(f"{told} cannot be read", f"{why}: make it readable.")
    return ok("no credentials: not in a cluster", f"{why}; outside of a cluster there is nothing to learn.")


class _Timex(ctypes.Structure):
    """struct timex, sys/timex.h."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _connects(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(1.0)
        try:
            line.connect(path)
        except OSError:
            return False
    return True
