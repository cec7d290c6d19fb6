"""Policies as stores have them from before what they expect had a form of its own: a text of JSON, `opaque`, beside them."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from quell.documents.load import load_values
from quell.documents.write import to_document
from quell.model.policy import Policy


class _Older(Struct):
    opaque: str = ""


def read_stored(body: bytes) -> Policy:
    """The policy that a store has. DocumentError: what it lists would be refused today."""
    policy = msgspec.json.decode(body, type=Policy)
    opaque = msgspec.json.decode(body, type=_Older).opaque
    if not opaque:
        return policy
    lists: dict[str, Any] = msgspec.json.decode(opaque)
    if "allowedFlags" in lists:
        lists["allowedFlags"] = [{"class": flag.get("class")} for flag in lists["allowedFlags"]]
    document = to_document(policy)
    document["spec"] |= lists
    [read] = load_values([document], f"policy {policy.name}").policies
    return msgspec.structs.replace(policy, expected=read.expected, allowed_flags=read.allowed_flags)
