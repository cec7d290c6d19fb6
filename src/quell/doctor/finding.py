"""What a check found."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from quell.secrets import Secret


class Verdict(StrEnum):
    OK = "ok"
    #: It works, but not well or not for long; or it could not be looked at.
    WARNING = "warning"
    #: Something that Quell is for cannot be done here.
    MISSING = "missing"


class Role(StrEnum):
    CONTROLLER = "controller"
    AGENT = "agent"


class Found(Struct, frozen=True):
    verdict: Verdict
    #: One line: how it is.
    what: str
    #: One line: why it matters, and what to do where it is not ok.
    why: str


class Finding(Struct, frozen=True, kw_only=True):
    """One line of the answer. role: controller, agent or both."""

    role: str
    check: str
    verdict: Verdict
    what: str
    why: str


class Case(Struct, frozen=True, kw_only=True):
    """What to examine. token: empty where there is none."""

    #: What this machine is to be.
    roles: frozenset[Role]
    url: str
    token: Secret
    #: The controller's folder, and the agent's.
    state: Path
    agent_state: Path
    config: Path | None = None
    #: PEM: whom to trust for https.
    ca_file: Path | None = None


class Check(Struct, frozen=True):
    name: str
    roles: frozenset[Role]
    look: Callable[[Case], Found]


def ok(what: str, why: str) -> Found:
    return Found(Verdict.OK, what, why)


def warning(what: str, why: str) -> Found:
    return Found(Verdict.WARNING, what, why)


def missing(what: str, why: str) -> Found:
    return Found(Verdict.MISSING, what, why)
