"""Why a command is not carried out, on its way from where it is found to the outcome."""

from __future__ import annotations

from quell.model.decision import OutcomeStatus, Reason


class Refused(Exception):  # a decision with a reason, not an error; it never leaves the executor
    def __init__(self, reason: Reason, explanation: str, status: OutcomeStatus = OutcomeStatus.REFUSED) -> None:
        super().__init__(explanation)
        self.reason = reason
        self.status = status
