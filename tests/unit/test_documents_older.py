"""Policies of stores from before what they expect had a form of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from quell.controller.editing import Editing
from quell.documents.older import read_stored
from quell.errors import DocumentError
from quell.model.policy import Direction, NetworkRule, Policy, Ports, ProcessNode
from quell.storage.documents import Document, put
from quell.storage.store import Store

BODY: dict[str, Any] = {
    "name": "web",
    "type": "container",
    "mode": "enforce",
    "scope": [{"kind": "containerSelector", "requirements": [{"key": "image", "operator": "In", "values": ["web:*"]}]}],
    "default": [{"action": {"type": "agentKillProcess"}}],
}
LISTS: dict[str, Any] = {
    "processPolicy": [{"name": "web", "exe": ["/bin/web"], "id": "web_0", "euser": ["root"]}],
    "networkPolicy": {"ingress": [], "egress": [{"to": [{"dnsSelector": ["a"]}], "ports": [{"port": 53}]}]},
    "disableConnections": "ingress",
}


def stored(fields: dict[str, Any], lists: dict[str, Any] | None) -> bytes:
    opaque = {} if lists is None else {"opaque": msgspec.json.encode(lists).decode()}
    return msgspec.json.encode(fields | opaque)


def test_what_a_policy_listed_as_text_is_read() -> None:
    policy = read_stored(stored(BODY, LISTS))
    assert policy.expected.processes == (ProcessNode(id="web_0", name="web", exe=("/bin/web",), euser=("root",)),)
    assert policy.expected.ingress == ()
    [rule] = policy.expected.egress or ()
    assert isinstance(rule, NetworkRule)
    assert rule.ports == (Ports(port=53),)
    assert policy.expected.no_connections == (Direction.INGRESS,)
    assert read_stored(msgspec.json.encode(policy)) == policy


def test_the_flags_that_a_policy_of_traces_allows_are_read() -> None:
    fields = {"name": "quiet", "type": "trace", "mode": "enforce", "scope": []}
    fields["scope"] = [{"kind": "userSelector", "requirements": [{"key": "user", "operator": "Exists"}]}]
    policy = read_stored(stored(fields, {"allowedFlags": [{"class": "a/b", "seen": 3}]}))
    assert policy.allowed_flags == ("a/b",)


def test_a_policy_without_lists_is_as_it_is() -> None:
    assert read_stored(stored(BODY, None)) == msgspec.json.decode(stored(BODY, None), type=Policy)


def test_what_would_be_refused_today_is_said() -> None:
    with pytest.raises(DocumentError, match=r'spec\.processPolicy\[0\]: missing field "exe"'):
        read_stored(stored(BODY, {"processPolicy": [{"name": "web", "euser": ["root"]}]}))


@pytest.mark.parametrize("exe", [["/bin/web"], []], ids=["good", "refused today"])
def test_a_controller_starts_with_such_a_store(exe: list[str], tmp_path: Path) -> None:
    lists = {"processPolicy": [{"name": "web", "exe": exe, "euser": ["root"]}]}
    store = Store.open(tmp_path / "quell.db")

    async def nothing(_holder: str, _why: str) -> None:
        raise AssertionError("nothing is in quarantine")

    try:
        old = Document(kind="Policy", name="web", body=stored(BODY, lists))
        store.submit(lambda connection: put(connection, old)).result()
        book = Editing(store, lambda: 1.0, held=dict, use=lambda _documents, _index: None, release=nothing)
        [policy] = book.documents.policies
    finally:
        store.close()
    assert policy.name == "web"
    assert (policy.expected.processes is not None) == bool(exe)
