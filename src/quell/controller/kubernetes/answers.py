"""Errors as the Kubernetes API tells them (meta/v1 Status)."""

from __future__ import annotations

import httpx
import msgspec
from msgspec import Struct

#: Bytes of an answer that is an error which are read.
_ERROR_BYTES = 65_536
#: Beside 5xx, what another attempt may change: credentials are read anew, what changed meanwhile is read again.
_TEMPORARY = (401, 408, 409, 425, 429)


class Details(Struct, frozen=True):
    """What a failure is about. kind: the resource, as in paths."""

    name: str = ""
    kind: str = ""


class ApiStatus(Struct, frozen=True):
    """The API's own word on a failure."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: Details | None = None


STATUS = msgspec.json.Decoder(ApiStatus)


class Refused(Exception):
    """The API answered with an error. relist: the resource version held is of no more use. retry_after: seconds."""

    def __init__(
        self, verb: str, resource: str, status: ApiStatus, *, relist: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{verb} {resource}: {status.code} {status.reason}: {status.message}")
        self.verb = verb
        self.resource = resource
        self.status = status
        self.relist = relist
        self.retry_after = retry_after

    @property
    def is_of_permission(self) -> bool:
        """The role does not allow it; what admission forbids is 403 as well, in other words."""
        return self.status.code == 403 and f'cannot {self.verb} resource "{self.resource}"' in self.status.message

    def says_gone(self, name: str) -> bool:
        """There is no such object, by the API's own word: a 404 can be of whatever stands before the API."""
        details = self.status.details
        return self.status.code == 404 and details is not None and (details.kind, details.name) == (self.resource, name)

    @property
    def is_temporary(self) -> bool:
        return self.status.code in _TEMPORARY or self.status.code >= 500


def refused(verb: str, resource: str, response: httpx.Response, *, relist: bool = False) -> Refused:
    """The error that an answer other than the one hoped for is. Its body must have been read."""
    body = response.content[:_ERROR_BYTES]
    try:
        status = STATUS.decode(body)
    except msgspec.MsgspecError:
        # Something between Quell and the API answered.
        status = ApiStatus(message=body[:200].decode(errors="replace").strip())
    after = response.headers.get("Retry-After", "")
    return Refused(
        verb,
        resource,
        msgspec.structs.replace(status, code=response.status_code),
        relist=relist,
        retry_after=float(after) if after.isdecimal() else None,
    )
