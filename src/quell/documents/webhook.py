"""Webhook endpoints. SEMANTICS section 7."""

from __future__ import annotations

import base64
import binascii
from urllib.parse import urlsplit

from quell.catalogue.forms import levels
from quell.documents.document import Document
from quell.documents.reader import Fields, Value
from quell.model.event import Category, Level
from quell.model.rule import Webhook, WebhookFilter, WebhookType
from quell.secrets import HIDDEN

_SECRET_PREFIX = "whsec_"  # noqa: S105 - the prefix that the Standard Webhooks convention gives every secret
#: Bytes, by the Standard Webhooks convention.
_SECRET_BYTES = range(24, 65)
_OPTIONAL = (
    "type",
    "enable",
    "default",
    "use_proxy",
    "secret",
    "headers",
    "filter",
    "ca_file",
    "verify_tls",
    "allow_http",
    "allow_private",
)
#: Set by Quell on every delivery.
_OWN_HEADERS = ("content-type", "content-length", "host", "webhook-id", "webhook-timestamp", "webhook-signature")


#: What the API has at the place of an endpoint's name.
_TAKEN = ("deliveries", "dead-letters")


def read(document: Document) -> Webhook:
    name = document.name()
    if "/" in name or name in _TAKEN:
        expected = f"a name without /, and not {' or '.join(_TAKEN)}"
        document.metadata["name"].problem("the name is part of an address of the API", expected=expected, got=name)
    fields = document.spec.fields(("url",), _OPTIONAL)
    allow_http = fields.boolean("allow_http")
    return Webhook(
        name=name,
        url=_url(fields["url"], allow_http=allow_http) if "url" in fields else "",
        type=fields.choice("type", WebhookType, WebhookType.JSON),
        enable=fields.boolean("enable", default=True),
        default=fields.boolean("default"),
        use_proxy=fields.boolean("use_proxy"),
        secret=_secret(fields["secret"]) if "secret" in fields else "",
        headers=_headers(fields["headers"]) if "headers" in fields else {},
        filter=_filter(fields["filter"]) if "filter" in fields else WebhookFilter(),
        ca_file=fields["ca_file"].text() if "ca_file" in fields else None,
        verify_tls=fields.boolean("verify_tls", default=True),
        allow_http=allow_http,
        allow_private=fields.boolean("allow_private"),
        source=document.source,
    )


def _url(value: Value, *, allow_http: bool) -> str:
    text = value.text()
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not text:
        return ""
    if not good or not text.isprintable() or " " in text:
        value.wrong("a URL such as https://example.org/hook")
    elif parts.username is not None or parts.password is not None:
        value.problem("user and password would be shown in logs: put them into headers", expected="a URL without them")
    elif parts.scheme == "http" and not allow_http:
        value.problem(
            "http is neither secret nor certain of its receiver: use https, or say allow_http: true",
            expected="https",
            got=text,
        )
    return text


def _secret(value: Value) -> str:
    """The text is never repeated in a message. (secret) stands for the one that is in force (quell.documents.hidden)."""
    text = value.text()
    if text == HIDDEN:
        return text
    try:
        size = len(base64.b64decode(text.removeprefix(_SECRET_PREFIX), validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if text and (not text.startswith(_SECRET_PREFIX) or size not in _SECRET_BYTES):
        form = f"{_SECRET_PREFIX} and {_SECRET_BYTES[0]} to {_SECRET_BYTES[-1]} bytes in base64"
        value.problem(f"expected {form}", expected=form)
    return text


def _headers(value: Value) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, field in value.entries().items():
        text = field.text(empty=True)
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            field.name_of_field.wrong("the name of an HTTP header")
        elif name.lower() in _OWN_HEADERS:
            field.name_of_field.problem(f"{name} is set by Quell", expected="another header", got=name)
        elif not text.isprintable() or not text.isascii():
            field.problem("expected the printable ASCII text of an HTTP header", expected="printable ASCII")
        headers[name] = text
    return headers


def _filter(value: Value) -> WebhookFilter:
    fields = value.fields((), ("categories", "level", "flags"))
    categories = (
        [item.choice(Category, "category") for item in fields["categories"].items()] if ("categories" in fields) else []
    )
    return WebhookFilter(
        categories=tuple(category for category in categories if category is not None),
        level=_level(fields),
        flags=fields.boolean("flags"),
    )


def _level(fields: Fields) -> Level | None:
    """The least level; case does not count, as in rules."""
    if "level" not in fields:
        return None
    text = fields["level"].text()
    found = None if text.startswith(">") else next(iter(levels(text)), None)
    if text and found is None:
        fields["level"].unknown("level", text, Level)
    return found
