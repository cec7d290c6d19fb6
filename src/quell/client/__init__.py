"""The controller's REST API as Python calls; the command line and programs of users go through it.

    with Client("http://127.0.0.1:7341", token) as quell:
        for event in quell.events.recent(10): ...

Every call raises Unreachable if the controller does not answer and ApiError if it answers with a problem (RFC 9457).
Times are epoch seconds; lists come newest first, or by name. The controller describes the API at /v1/openapi.json.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from quell.client.accounts import Accounts
from quell.client.agents import Agents
from quell.client.approvals import Approvals
from quell.client.audit import Audit
from quell.client.backups import Backups
from quell.client.documents import Documents
from quell.client.events import Events
from quell.client.evidence import Evidence
from quell.client.flags import Flags
from quell.client.inventory import Inventory
from quell.client.notifications import Notifications
from quell.client.policies import Deviations, Policies, Rulesets
from quell.client.rules import Rules
from quell.client.session import Session
from quell.client.settings import ControllerSettings
from quell.client.syslog import SyslogReceivers
from quell.client.traces import Traces
from quell.client.webhooks import Webhooks


class Client:
    """A session with one controller. timeout: seconds for each request."""

    def __init__(self, url: str, token: str, *, timeout: float = 30.0, ca_file: Path | None = None) -> None:
        """ca_file: PEM, whom to trust for https; None: whom the system trusts. OSError: it cannot be read."""
        session = self._session = Session(url, token, timeout=timeout, ca_file=ca_file)
        self.accounts = Accounts(session)
        self.agents = Agents(session)
        self.approvals = Approvals(session)
        self.audit = Audit(session)
        self.backups = Backups(session)
        self.deviations = Deviations(session)
        self.documents = Documents(session)
        self.events = Events(session)
        self.evidence = Evidence(session)
        self.flags = Flags(session)
        self.inventory = Inventory(session)
        self.notifications = Notifications(session)
        self.policies = Policies(session)
        self.rules = Rules(session)
        self.rulesets = Rulesets(session)
        self.settings = ControllerSettings(session)
        self.syslog = SyslogReceivers(session)
        self.traces = Traces(session)
        self.webhooks = Webhooks(session)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._session.http.close()

    def overview(self, span: str = "1h") -> dict[str, Any]:
        """What goes on at a glance. span: 1h, 6h or 24h."""
        return self._session.ask(dict[str, Any], "GET", "/v1/overview", params={"span": span})

    def version(self) -> str:
        return str(self._session.ask(dict[str, Any], "GET", "/v1/version").get("version", ""))
