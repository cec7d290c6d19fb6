"""Named fail-points, for tests of what a crash at a certain step leaves behind.

QUELL_FAULT=NAME or NAME:N kills this process (SIGKILL) when the point is passed for the N-th time (1 if not given).
Without the variable a point is one comparison. POINTS lists every name, so that a test can try each.
"""

from __future__ import annotations

import os
import signal

POINTS = (
    "orders.before-write",
    "orders.after-write",
    "orders.after-sync",
    "journal.before-commit",
    "journal.after-commit",
    "outbox.before-send",
    "outbox.after-send",
    "outcome.before-commit",
    "outcome.after-commit",
    "kubernetes.before-send",
    "kubernetes.after-send",
    "webhook.before-send",
    "webhook.after-send",
    "traces.before-commit",
    "traces.after-commit",
    "documents.before-commit",
    "documents.after-commit",
    "agent.ledger-before-write",
    "agent.ledger-after-write",
    "agent.before-action",
    "agent.after-action",
    "agent.before-report",
    "agent.after-report",
)

_name, _, _count = os.environ.get("QUELL_FAULT", "").partition(":")
_left = int(_count or 1) if _name else 0


def point(name: str) -> None:
    """Die here if the environment says so."""
    if not _name or name != _name:
        return
    global _left  # noqa: PLW0603 - the count of passes is the state of the process
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
