"""What each role may do. DESIGN, trust."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Permission(StrEnum):
    """What a route needs. Every route names one, or OPEN: the proof is in its body."""

    OPEN = "open"
    #: Look at everything that holds no secret.
    READ = "read"
    #: Write documents; destructive rules of who has not OPERATE are saved disabled.
    RULES = "rules"
    #: Isolate, release, approve, pause; enable destructive rules.
    OPERATE = "operate"
    #: Accounts, tokens, agents, settings, backups.
    ADMIN = "admin"
    #: Post events.
    INGEST = "ingest"


class Role(StrEnum):
    """admin: everything. operator: documents, quarantine, approvals, pause. author: documents, destructive rules stay
    disabled. viewer: read. ingest: send events, nothing else.
    """

    ADMIN = "admin"
    OPERATOR = "operator"
    AUTHOR = "author"
    VIEWER = "viewer"
    INGEST = "ingest"

    @property
    def permissions(self) -> frozenset[Permission]:
        return _PERMISSIONS[self]

    def may(self, permission: Permission) -> bool:
        return permission is Permission.OPEN or permission in _PERMISSIONS[self]


_PERMISSIONS = {
    Role.VIEWER: frozenset((Permission.READ,)),
    Role.AUTHOR: frozenset((Permission.READ, Permission.RULES)),
    Role.OPERATOR: frozenset((Permission.READ, Permission.RULES, Permission.OPERATE)),
    Role.ADMIN: frozenset(set(Permission) - {Permission.OPEN}),
    Role.INGEST: frozenset((Permission.INGEST,)),
}


def those_who(permission: Permission) -> list[str]:
    """The roles that have a permission, by name."""
    return sorted(role.value for role in Role if role.may(permission))


def needs(permission: Permission, *, secret: bool = False, version: bool = True) -> dict[str, Any]:
    """For a route's `opt`. secret: its answer shows one, and is never kept on disk. version: what it changes has one."""
    return {"permission": permission, "secret": secret, "version": version}
