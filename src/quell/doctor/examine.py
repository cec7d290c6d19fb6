"""All checks at once, each in a thread of its own, none longer than a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from quell.doctor import folder, kernel, machine, reach
from quell.doctor.finding import Case, Check, Finding, Found, Role, warning
from quell.secrets import redact_text

_CONTROLLER, _AGENT = frozenset((Role.CONTROLLER,)), frozenset((Role.AGENT,))
_BOTH = _CONTROLLER | _AGENT

CHECKS = (
    Check("python", _BOTH, machine.python),
    Check("libraries", _BOTH, machine.libraries),
    Check("clock", _BOTH, machine.clock),
    Check("settings", _CONTROLLER, reach.settings),
    Check("state folder", _CONTROLLER, folder.permissions),
    Check("file system", _CONTROLLER, folder.file_system),
    Check("disk space", _CONTROLLER, folder.room),
    Check("disk latency", _CONTROLLER, folder.latency),
    Check("port", _CONTROLLER, reach.port),
    Check("webhooks", _CONTROLLER, reach.webhooks),
    Check("kubernetes", _CONTROLLER, machine.kubernetes),
    Check("kernel", _AGENT, kernel.version),
    Check("pidfd", _AGENT, kernel.pidfd),
    Check("capabilities", _AGENT, kernel.capabilities),
    Check("namespaces", _AGENT, kernel.namespaces),
    Check("process connector", _AGENT, kernel.connector),
    Check("nftables", _AGENT, kernel.nftables),
    Check("cgroups", _AGENT, kernel.cgroups),
    Check("container runtimes", _AGENT, machine.runtimes),
    Check("agent folder", _AGENT, folder.agent_permissions),
    Check("agent link", _AGENT, reach.link),
    Check("controller", _BOTH, reach.controller),
    Check("token", _BOTH, reach.token),
    Check("clock skew", _BOTH, reach.skew),
)


def examine(case: Case, checks: Sequence[Check] = CHECKS, *, patience: float) -> list[Finding]:
    """What the checks for the case's roles find, in their order. patience: seconds for all of them together."""
    wanted = [check for check in checks if check.roles & case.roles]
    answers: dict[str, Found] = {}
    # Daemons: one that hangs, on a dead network file system for instance, must not keep the process from ending.
    threads = [threading.Thread(target=_look, args=(check, case, answers), daemon=True) for check in wanted]
    for thread in threads:
        thread.start()
    end = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    silent = warning(
        f"no answer within {patience:g} s",
        "What it looks at hangs, or this machine is very busy: try again with a longer --timeout.",
    )
    return [_finding(check, answers.get(check.name, silent)) for check in wanted]


def _look(check: Check, case: Case, answers: dict[str, Found]) -> None:
    try:
        answers[check.name] = check.look(case)
    except Exception as error:  # noqa: BLE001 - one look that fails must not hide what the others see
        told = f"could not be looked at: {type(error).__name__}: {error}"
        answers[check.name] = warning(told, "This check does not understand this machine; the others stand.")


def _finding(check: Check, found: Found) -> Finding:
    role = "both" if len(check.roles) > 1 else next(iter(check.roles)).value
    return Finding(
        role=role, check=check.name, verdict=found.verdict, what=redact_text(found.what), why=redact_text(found.why)
    )
