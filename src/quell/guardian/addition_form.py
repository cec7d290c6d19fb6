"""Additions as they are read back, whoever wrote them: ours, and those of deviations that came ready-made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from quell.model.policy import (
    Block,
    Names,
    NetworkRule,
    Operator,
    Ports,
    Requirement,
    RulesetRule,
    Selector,
    SelectorKind,
)

_Port = Annotated[int, Meta(ge=0, le=65_535)]
_Text = Annotated[str, Meta(min_length=1)]


class _Form(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    pass


class PortsForm(_Form, frozen=True, kw_only=True):
    port: _Port
    protocol: Literal["TCP", "UDP"] = "TCP"
    end_port: _Port | None = None

    def read(self) -> Ports:
        return Ports(port=self.port, protocol=self.protocol, end=self.end_port)


class NodeForm(_Form, frozen=True, kw_only=True):
    """A process that is to be added."""

    id: _Text
    name: _Text
    exe: tuple[_Text, ...] = ()
    euser: tuple[_Text, ...] = ()
    listening_sockets: tuple[PortsForm, ...] = ()
    children: tuple[NodeForm, ...] = ()


class GrowingForm(_Form, frozen=True, kw_only=True):
    """A process that is there, and what is added to it."""

    id: _Text
    listening_sockets: tuple[PortsForm, ...] = ()
    children: tuple[NodeForm, ...] = ()


class ItemForm(NodeForm, frozen=True, kw_only=True):
    id: str = ""
    name: str = ""
    policy_node: GrowingForm | None = None


class BlockForm(_Form, frozen=True, kw_only=True):
    cidr: _Text
    exceptions: tuple[_Text, ...] = msgspec.field(name="except", default=())


class PeerForm(_Form, frozen=True, kw_only=True):
    ip_block: BlockForm | None = None
    dns_selector: tuple[_Text, ...] = ()

    def read(self) -> Block | Names:
        if self.ip_block is not None:
            return Block(cidr=self.ip_block.cidr, exceptions=self.ip_block.exceptions)
        return Names(names=self.dns_selector)


class ConnectionsForm(_Form, frozen=True, kw_only=True):
    sources: tuple[PeerForm, ...] = msgspec.field(name="from", default=())
    targets: tuple[PeerForm, ...] = msgspec.field(name="to", default=())
    ports: tuple[PortsForm, ...]
    processes: tuple[_Text, ...] = ()

    def read(self) -> NetworkRule:
        peers = tuple(each.read() for each in (*self.sources, *self.targets))
        return NetworkRule(peers=peers, ports=tuple(each.read() for each in self.ports), processes=self.processes)


class NetworkForm(_Form, frozen=True, kw_only=True):
    ingress: tuple[ConnectionsForm, ...] = ()
    egress: tuple[ConnectionsForm, ...] = ()


class ExpressionForm(_Form, frozen=True, kw_only=True):
    key: _Text
    operator: Operator
    values: tuple[str, ...] = ()


class SelectorForm(_Form, frozen=True, kw_only=True):
    match_fields: dict[str, str] = {}
    match_labels: dict[str, str] = {}
    match_fields_expressions: tuple[ExpressionForm, ...] = ()
    match_expressions: tuple[ExpressionForm, ...] = ()

    def read(self, kind: SelectorKind) -> Selector:
        plain = [
            Requirement(key=key, operator=Operator.IN, values=(value,))
            for key, value in (self.match_fields | self.match_labels).items()
        ]
        written = [
            Requirement(key=each.key, operator=each.operator, values=each.values)
            for each in (*self.match_fields_expressions, *self.match_expressions)
        ]
        return Selector(kind=kind, requirements=(*plain, *written))


class RuleForm(_Form, frozen=True, kw_only=True):
    target: _Text
    verb: Literal["allow", "deny"]
    values: tuple[_Text, ...]
    cluster_selector: SelectorForm | None = None
    machine_selector: SelectorForm | None = None
    namespace_selector: SelectorForm | None = None
    pod_selector: SelectorForm | None = None
    container_selector: SelectorForm | None = None
    service_selector: SelectorForm | None = None
    process_selector: SelectorForm | None = None

    def read(self) -> RulesetRule:
        given = (
            (SelectorKind.CLUSTER, self.cluster_selector),
            (SelectorKind.MACHINE, self.machine_selector),
            (SelectorKind.NAMESPACE, self.namespace_selector),
            (SelectorKind.POD, self.pod_selector),
            (SelectorKind.CONTAINER, self.container_selector),
            (SelectorKind.SERVICE, self.service_selector),
            (SelectorKind.PROCESS, self.process_selector),
        )
        selectors = tuple(form.read(kind) for kind, form in given if form is not None)
        return RulesetRule(target=self.target, allow=self.verb == "allow", values=self.values, selectors=selectors)


class AdditionForm(_Form, frozen=True, kw_only=True):
    process_policy: tuple[ItemForm, ...] = ()
    network_policy: NetworkForm = NetworkForm()
    rules: tuple[RuleForm, ...] = ()
    without: tuple[RuleForm, ...] = ()


def read_addition(addition: dict[str, Any]) -> AdditionForm:
    """ValueError: it is empty, or says what cannot be applied."""
    try:
        form = msgspec.convert(addition, AdditionForm)
    except msgspec.ValidationError as error:
        raise ValueError(f"its addition cannot be read: {error}") from error
    if form == AdditionForm():
        raise ValueError("no addition would allow it")
    for item in form.process_policy:
        if item.policy_node is None and not (item.id and item.name):
            raise ValueError("its addition cannot be read: a process without id or name")
    return form
