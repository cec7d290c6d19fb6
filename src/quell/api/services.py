"""What the routes work with."""

from __future__ import annotations

from msgspec import Struct

from quell.api.accounts import Accounts
from quell.api.auth import Auth
from quell.api.limits import RateLimit
from quell.api.link import AgentLinks
from quell.api.search import Searching
from quell.controller.controller import Controller
from quell.controller.overview import Overviews


class Services(Struct, frozen=True, kw_only=True):
    controller: Controller
    auth: Auth
    accounts: Accounts
    links: AgentLinks
    searching: Searching
    overviews: Overviews
    #: Of each caller, over REST and in the console together.
    limit: RateLimit
