"""The cookie of a browser's session, and what keeps other sites from using it. RFC 6265bis; OWASP, CSRF prevention.

Lax rather than Strict: a link from a chat or a ticket to an event's page is followed with the cookie. What changes
something therefore also needs a token that only this site's pages can read, and must not come from another site.
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlsplit

from quell.api.asgi import Scope, header
from quell.api.problem import Refusal

_NAME = "quell_session"
#: Before each name under TLS: browsers take it only with Secure, for one host and all its paths, and from no subdomain.
_SECURE = "__Host-"

#: Methods that change nothing (RFC 9110).
SAFE = ("GET", "HEAD", "OPTIONS")
CSRF_HEADER = b"x-quell-csrf"


def secret_of(scope: Scope) -> bytes | None:
    """The session's secret that a request shows in its cookie."""
    return value_of(scope, _NAME)


def to_keep(scope: Scope, secret: str, seconds: float) -> tuple[str, str]:
    """The header that gives a browser its session."""
    return keep(scope, _NAME, secret, seconds)


def to_drop(scope: Scope) -> tuple[str, str]:
    return drop(scope, _NAME)


def value_of(scope: Scope, name: str) -> bytes | None:
    """Of the cookie that `keep` gave under this name."""
    wanted = _called(scope, name).encode()
    for part in (header(scope, b"cookie") or b"").split(b";"):
        found, _, value = part.strip().partition(b"=")
        if found == wanted:
            return value
    return None


def keep(scope: Scope, name: str, value: str, seconds: float) -> tuple[str, str]:
    """The header that gives a browser a cookie of this name, which no script can read. value: without ; and ,"""
    return "set-cookie", f"{_called(scope, name)}={value}{_attributes(scope)}; Max-Age={int(seconds)}"


def drop(scope: Scope, name: str) -> tuple[str, str]:
    return "set-cookie", f"{_called(scope, name)}={_attributes(scope)}; Max-Age=0"


def csrf_of(secret: bytes) -> str:
    """What a page of this session shows in CSRF_HEADER, or in a form, when it changes something."""
    return hmac.new(secret, b"quell csrf", hashlib.sha256).hexdigest()


def check_csrf(scope: Scope, secret: bytes, shown: bytes) -> None:
    """Refusal 403 for what a page of another site could have sent."""
    check_site(scope)
    if not hmac.compare_digest(csrf_of(secret).encode(), shown):
        raise Refusal(
            403, f"{CSRF_HEADER.decode()} is not this session's; GET /v1/sessions/current tells it, under csrf"
        )


def check_site(scope: Scope) -> None:
    """Refusal 403 if a browser says that another site's page sent this. Programs that are no browsers say nothing."""
    site = header(scope, b"sec-fetch-site")
    if site is not None:
        foreign = site not in (b"same-origin", b"none")
    else:
        # Browsers leave Sec-Fetch-Site out where there is no TLS, but send Origin with every POST.
        origin = header(scope, b"origin")
        host = (header(scope, b"host") or b"").decode("latin-1")
        foreign = origin is not None and urlsplit(origin.decode("latin-1")).netloc != host
    if foreign:
        raise Refusal(403, "this came from a page of another site, and changed nothing")


def _called(scope: Scope, name: str) -> str:
    return f"{_SECURE}{name}" if _is_secure(scope) else name


def _attributes(scope: Scope) -> str:
    return "; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if _is_secure(scope) else "")


def _is_secure(scope: Scope) -> bool:
    """Whether the browser speaks TLS. What a proxy says is believed: who lies gets a stricter cookie of their own."""
    return scope.get("scheme") == "https" or header(scope, b"x-forwarded-proto") == b"https"
