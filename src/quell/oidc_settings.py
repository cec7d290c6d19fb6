"""What an operator may set about logins with OpenID Connect; a group of quell.settings. docs/accounts.md."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from msgspec import Struct

from quell.setting import Unit, setting


class OidcSettings(Struct, frozen=True, forbid_unknown_fields=True):
    issuer: Annotated[
        str,
        setting(
            "The provider of logins, by the address that it calls itself by; empty: there is none.",
            unit=Unit.URL,
            reason="Quell works without a provider; who has one says which.",
            risk="Whoever runs the provider decides who logs in here, and as what.",
        ),
    ] = ""
    client_id: Annotated[
        str,
        setting(
            "What the provider knows this Quell by.",
            unit=Unit.LABEL,
            reason="The provider gives it when Quell is registered there.",
            risk="Under another's name the provider refuses every login.",
        ),
    ] = ""
    client_secret: Annotated[
        str,
        setting(
            "What Quell proves itself to the provider with; empty, and no file: it is registered as a public client.",
            unit=Unit.LABEL,
            reason="The provider gives it when Quell is registered there.",
            risk="Whoever has it can ask the provider as this Quell, but logs nobody in here with it.",
            secret=True,
        ),
    ] = ""
    client_secret_file: Annotated[
        str,
        setting(
            "A file with the client_secret, read at the start.",
            unit=Unit.FILE,
            reason="Kubernetes and systemd hand secrets over in files.",
            risk="As of client_secret.",
        ),
    ] = ""
    authority: Annotated[
        str,
        setting(
            "A PEM file with the authorities that may have signed the provider's certificate; empty: those of this machine.",
            unit=Unit.FILE,
            reason="Public providers have certificates that every machine trusts.",
            risk="Whoever holds an authority in it can pretend to be the provider.",
        ),
    ] = ""
    public_url: Annotated[
        str,
        setting(
            "Address of this Quell as browsers reach it. The provider sends them back to /login/oidc/callback below it, and "
            "nowhere else; that address is registered there.",
            unit=Unit.URL,
            reason="Quell cannot know what stands before it, and does not believe a request about it.",
            risk="Another address than is registered: the provider refuses every login.",
        ),
    ] = ""
    scopes: Annotated[
        tuple[str, ...],
        setting(
            "What is asked for beside openid.",
            unit=Unit.SCOPES,
            reason="Every provider knows these two. Groups come with them at some; others have a scope of their own for them.",
            risk="Without the scope that brings the groups nobody gets a role by them; one that it does not know is refused.",
        ),
    ] = ("profile", "email")
    name_claim: Annotated[
        str,
        setting(
            "The claim that a new user is called by here: small letters, digits and . _ @ - are taken.",
            unit=Unit.CLAIM,
            reason="What people type as their name, at most providers.",
            risk="People are known by the provider's own id, so this names them only.",
        ),
    ] = "preferred_username"
    groups_claim: Annotated[
        str,
        setting(
            "The claim that has a person's groups, or roles, as a list or one text.",
            unit=Unit.CLAIM,
            reason="So it is called at most providers.",
            risk="A claim that people can set for themselves lets them choose their role.",
        ),
    ] = "groups"
    admin_groups: Annotated[
        tuple[str, ...],
        setting(
            "Groups whose people are admins here.",
            unit=Unit.GROUPS,
            reason="None: somebody decides who that is.",
            risk="Whoever can put people into them can give themselves everything here.",
        ),
    ] = ()
    operator_groups: Annotated[
        tuple[str, ...],
        setting(
            "Groups whose people are operators, unless they are admins.",
            unit=Unit.GROUPS,
            reason="As of admin_groups.",
            risk="As of admin_groups, for what an operator may.",
        ),
    ] = ()
    author_groups: Annotated[
        tuple[str, ...],
        setting(
            "Groups whose people are authors, unless they are more.",
            unit=Unit.GROUPS,
            reason="As of admin_groups.",
            risk="As of admin_groups, for what an author may.",
        ),
    ] = ()
    viewer_groups: Annotated[
        tuple[str, ...],
        setting(
            "Groups whose people are viewers, unless they are more.",
            unit=Unit.GROUPS,
            reason="As of admin_groups.",
            risk="As of admin_groups, for what a viewer may.",
        ),
    ] = ()
    default_role: Annotated[
        Literal["none", "viewer", "author", "operator", "admin"],
        setting(
            "Role of people whom no group gives one; none: they are kept out.",
            unit=Unit.WORD,
            reason="Having an account at the provider says nothing about security.",
            risk="Everybody with an account at the provider gets it.",
        ),
    ] = "none"
    label: Annotated[
        str,
        setting(
            "What the button on the login page says.",
            unit=Unit.LABEL,
            reason="Says what it does where the provider has no name that people know.",
            risk="Words that people do not know send them to the password form.",
        ),
    ] = "Log in with single sign-on"
    timeout: Annotated[
        str,
        setting(
            "How long each answer of the provider may take, as a whole.",
            unit=Unit.DURATION,
            reason="Providers answer within a second or are ill.",
            risk="Too high leaves people before an empty page; too low refuses them while the provider is slow.",
            least="100ms",
        ),
    ] = "5s"
    clock_skew: Annotated[
        str,
        setting(
            "How far the provider's clock and this one may be apart.",
            unit=Unit.DURATION,
            reason="More than clocks kept by NTP differ.",
            risk="Too high takes tokens that have expired; too low refuses right ones where a clock is wrong.",
        ),
    ] = "30s"

    @property
    def enabled(self) -> bool:
        return bool(self.issuer)

    @property
    def redirect(self) -> str:
        """The one address that the provider sends browsers back to."""
        return self.public_url.rstrip("/") + "/login/oidc/callback"

    def problems(self, *, password_login: bool) -> Iterator[tuple[str, str]]:
        """What does not fit together: the setting's name, and what is wrong with it."""
        if not self.enabled:
            if not password_login:
                yield "accounts.password_login", "false lets nobody log in while oidc.issuer is empty"
            return
        if not _is_plain(self.issuer):
            yield "oidc.issuer", "expected an https address, or http on loopback, without ? and #"
        if not _is_plain(self.public_url) or urlsplit(self.public_url).path not in ("", "/"):
            yield (
                "oidc.public_url",
                "expected this Quell's https address, or http on loopback, and nothing behind the host",
            )
        if not self.client_id:
            yield "oidc.client_id", "expected what the provider at oidc.issuer knows this Quell by"
        if self.client_secret and self.client_secret_file:
            yield "oidc.client_secret_file", "client_secret is set as well: expected one of the two"
        groups = (*self.admin_groups, *self.operator_groups, *self.author_groups, *self.viewer_groups)
        if not groups and self.default_role == "none":
            yield "oidc.default_role", "none lets nobody in while no group has a role: set admin_groups, for instance"


def is_private_enough(url: str) -> bool:
    """Whether what is sent there, and comes back, can neither be read nor altered on its way."""
    parts = _parts(url)
    if parts is None:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname or ""))


def _is_plain(url: str) -> bool:
    parts = _parts(url)
    return parts is not None and not parts.query and not parts.fragment and is_private_enough(url)


def _parts(url: str) -> SplitResult | None:
    """None: it is no address of a host, or holds a password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    is_clean = url.isascii() and url.isprintable() and " " not in url and parts.username is None
    return parts if is_clean and parts.hostname else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
