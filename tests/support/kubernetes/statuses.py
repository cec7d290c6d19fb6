"""Errors in the words of the Kubernetes API (meta/v1 Status), each raised to be sent as it is."""

from __future__ import annotations

from typing import Any

from tests.support.kubernetes.cluster import Object, User
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


def forbidden(
    user: User, verb: str, resource: Resource, namespace: str, name: str, *, subresource: str = ""
) -> Failure:
    what = f'{resource.name} "{name}"' if name else resource.name
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    asked = f"{resource.name}/{subresource}" if subresource else resource.name
    return Failure(
        403,
        "Forbidden",
        f'{what} is forbidden: User "{user.name}" cannot {verb} resource "{asked}" '
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


def unsupported_media_type(types: tuple[str, ...]) -> Failure:
    said = f"the body of the request was in an unknown format - accepted media types include: {', '.join(types)}"
    return Failure(415, "UnsupportedMediaType", said, {})


def already_exists(resource: Resource, name: str) -> Failure:
    return Failure(409, "AlreadyExists", f'{resource.name} "{name}" already exists', {"name": name, **_kind(resource)})


def uid_conflict(resource: Resource, name: str, given: str, there: str) -> Failure:
    return _conflict(
        resource,
        name,
        f"the UID in the precondition ({given}) does not match the UID in record ({there}). The object might have been "
        "deleted and then recreated",
    )


def version_conflict(resource: Resource, name: str, given: str, there: str) -> Failure:
    return _conflict(
        resource,
        name,
        f"the ResourceVersion in the precondition ({given}) does not match the ResourceVersion in record ({there}). The "
        "object might have been modified",
    )


def _conflict(resource: Resource, name: str, why: str) -> Failure:
    """Of a precondition: it names the kind where others name the resource."""
    said = f'Operation cannot be fulfilled on {resource.kind} "{name}": {why}'
    return Failure(409, "Conflict", said, {"name": name, "kind": resource.kind})


def against_budget(budget: Object) -> Failure:
    status = budget["status"]
    said = (
        f"The disruption budget {budget['metadata']['name']} needs {status['desiredHealthy']} healthy pods and has "
        f"{status['currentHealthy']} currently"
    )
    return _too_many("Cannot evict pod as it would violate the pod's disruption budget.", said)


def still_counting(budget: Object) -> Failure:
    said = f"The disruption budget {budget['metadata']['name']} is still being processed by the server."
    return _too_many("Cannot evict pod as it would violate the pod's disruption budget.", said)


def _too_many(message: str, cause: str) -> Failure:
    causes = [{"reason": "DisruptionBudget", "message": cause}]
    return Failure(429, "TooManyRequests", message, {"causes": causes})


def too_many_budgets() -> Failure:
    said = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    return Failure(500, "InternalError", f"Internal error occurred: {said}", {"causes": [{"message": said}]})


def invalid(name: str, causes: list[dict[str, str]]) -> Failure:
    """Of a pod."""
    said = [f"{each['field']}: {each['message']}" for each in causes]
    told = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    details = {"name": name, "kind": "Pod", "causes": causes}
    return Failure(422, "Invalid", f'Pod "{name}" is invalid: {told}', details)


def invalid_option(field: str, value: object, expected: str) -> Failure:
    said = f'DeleteOptions.meta.k8s.io "" is invalid: {field}: Invalid value: {value!r}: {expected}'
    return Failure(422, "Invalid", said, {"group": "meta.k8s.io", "kind": "DeleteOptions"})


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
