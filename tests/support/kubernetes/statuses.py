"""Errors in the words of the Kubernetes API (meta/v1 Status), each raised to be sent as it is."""

from __future__ import annotations

from typing import Any

from tests.support.kubernetes.cluster import User
from tests.support.kubernetes.resources import Resource


class Failure(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata or {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            **({} if details is None else {"details": details}),
            "code": code,
        }


def unauthorized() -> Failure:
    return Failure(401, "Unauthorized", "Unauthorized")


def forbidden(user: User, verb: str, resource: Resource, namespace: str, name: str) -> Failure:
    what = f'{resource.name} "{name}"' if name else resource.name
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    return Failure(
        403,
        "Forbidden",
        f'{what} is forbidden: User "{user.name}" cannot {verb} resource "{resource.name}" '
        f'in API group "{resource.group}" {where}',
        {**({"name": name} if name else {}), **_kind(resource)},
    )


def not_found(resource: Resource, name: str) -> Failure:
    return Failure(404, "NotFound", f'{resource.name} "{name}" not found', {"name": name, **_kind(resource)})


def no_such_resource() -> Failure:
    return Failure(404, "NotFound", "the server could not find the requested resource", {})


def method_not_allowed() -> Failure:
    return Failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


def not_acceptable() -> Failure:
    return Failure(406, "NotAcceptable", "only the following media types are accepted: application/json")


def bad_request(message: str) -> Failure:
    return Failure(400, "BadRequest", message)


def too_old(version: int, oldest: int) -> Failure:
    return Failure(410, "Expired", f"too old resource version: {version} ({oldest})")


def page_expired(rest: str) -> Failure:
    """rest: a token with which the list can go on, no longer as of one moment."""
    return Failure(
        410,
        "Expired",
        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
        "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
        "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
        "modified, or deleted between the time the first chunk was returned and now may show up in the list.",
        metadata={"continue": rest},
    )


def _kind(resource: Resource) -> dict[str, str]:
    return {**({"group": resource.group} if resource.group else {}), "kind": resource.name}
