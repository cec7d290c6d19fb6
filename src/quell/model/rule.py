"""What people write: response rules, groups, webhook endpoints. SEMANTICS sections 2, 3 and 7."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from quell.model.action import Action
from quell.model.event import Category, Kind, Level


class Mode(StrEnum):
    ENFORCE = "enforce"
    AUDIT = "audit"


class Source(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a document came from."""

    file: str = ""
    line: int = 0


class Criterion(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One condition. Several values: any of them. Operators stay in the text: ">5", "3/30", ">=Warning", globs."""

    type: str
    values: tuple[str, ...]


class Rule(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A response rule. `event: incident` in a document is category security-event with that kind."""

    #: From 8 up; 0 before the store has given one.
    id: int = 0
    name: str
    category: Category
    kind: Kind | None = None
    #: "": everything.
    group: str = ""
    criteria: tuple[Criterion, ...] = ()
    actions: tuple[Action, ...]
    webhooks: tuple[str, ...] = ()
    disabled: bool = False
    comment: str = ""
    cfg_type: str = "user_created"
    mode: Mode = Mode.ENFORCE
    #: Seconds between two successes on one target.
    cooldown: float | None = None
    approval: bool = False
    #: Its kills wait until evidence has been gathered.
    evidence: bool = False
    #: (count, seconds): at most so many of this rule's own actions in that window.
    limit: tuple[int, float] | None = None
    #: Seconds; None: the default of the action's class (SEMANTICS section 8, stale).
    max_age: float | None = None
    allow_broad: bool = False
    source: Source = Source()


class GroupCriterion(Struct, frozen=True, kw_only=True):
    key: str
    #: =, !=, contains, prefix, regex or !regex.
    op: str
    value: str


class Group(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    comment: str = ""
    criteria: tuple[GroupCriterion, ...] = ()
    source: Source = Source()


class WebhookType(StrEnum):
    JSON = "JSON"
    SLACK = "Slack"
    TEAMS = "Teams"
    TEXT = "text"
    CLOUD_EVENTS = "CloudEvents"


class WebhookFilter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    categories: tuple[Category, ...] = ()
    level: Level | None = None
    flags: bool = False


class Webhook(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    url: str
    type: WebhookType = WebhookType.JSON
    enable: bool = True
    default: bool = False
    use_proxy: bool = False
    #: Standard Webhooks secret ("whsec_" and base64), never shown again.
    secret: str = ""
    headers: dict[str, str] = {}
    filter: WebhookFilter = WebhookFilter()
    #: PEM file of a CA for this endpoint.
    ca_file: str | None = None
    verify_tls: bool = True
    allow_http: bool = False
    #: Permit loopback, link-local and metadata addresses.
    allow_private: bool = False
    source: Source = Source()
