"""Deviations that another system found, ready-made: what a policy does not allow, as an event of category deviation.

SEMANTICS sections 1 and 5; the forms are in quell.detectors.deviation_form, docs/policies.md says how to post them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from ipaddress import ip_network
from typing import Any

import msgspec

from quell.catalogue.names import NAMES
from quell.detectors.context import MEANINGS, Context, Part, gathered, moment, opened, placed, wrapped
from quell.detectors.deviation_form import Guardian, Node, Peer, Record, Spec, read_record
from quell.detectors.form import ID, ProcessForm, seconds
from quell.detectors.line import read
from quell.detectors.native import process_of
from quell.errors import EventError
from quell.ids import uuid7
from quell.model.details import Connection, Details, Deviation, Endpoint
from quell.model.event import Category, Event
from quell.model.subject import Container, Pod, Process, Subject

_CONTAINER_PROCESS = "Process.Profile.Violation"
_HOST_PROCESS = "Host.Process.Violation"
_NETWORK = "Network.Violation"
_IMAGE = "Container.Image.Deviation"
_NAMESPACE = "kubernetes.io/metadata.name"

#: proc:MACHINE:START:PID; the start is in a form of its own, and says nothing here. A number after the pid tells apart
#: processes that had it one after the other.
_REF = re.compile(r"proc:([^:]+):[^:]*:(\d{1,10})(?:\.\d+)?")
#: cont:MACHINE:START:ID, the id shortened to its first twelve digits.
_CONTAINER = re.compile(r"cont:[^:]+:[^:]*:([0-9a-f]{12,64})")
_DESCRIPTION = re.compile(r'Process "([^"]+)" using executable "([^"]+)" deviated')
_MAX_PID = 2**31 - 1

_any = msgspec.json.Decoder()


class DeviationRecords:
    name = "deviation"
    about = "deviations from policies, found elsewhere: records of schema event_deviation, or GuardianDeviation objects"
    takes = frozenset(MEANINGS)
    is_report = False
    produces = (_CONTAINER_PROCESS, _HOST_PROCESS, _NETWORK, _IMAGE)

    def split(self, document: bytes, context: Context) -> Sequence[Part]:
        return (wrapped(*gathered(document, context)),)

    def decode(self, line: bytes, *, id: str | None, received: float) -> Event:  # noqa: A002 - the word of the model
        """One deviation. Its id is the record's, so that one that is sent twice is decided once."""
        document, context = opened(line)
        record, where = read_record(document)
        _policy(record, where)
        subject = placed(_subject(record, where), context)
        name = _name(record, subject)
        own = record.id or record.deviation.metadata.uid or ""
        has_id = ID.fullmatch(own) is not None
        return Event(
            id=id or (own if has_id else uuid7()),
            id_given=has_id,
            time=moment(seconds(record.time), context),
            received=received,
            source=self.name,
            category=Category.DEVIATION,
            name=name,
            catalogue_name=name,
            level=NAMES[name].level,
            subject=subject,
            raw=line,
            decode=details,
        )


def details(line: bytes) -> Details | None:
    """The details of a deviation's line (Event.decode)."""
    document, context = opened(line)
    record, where = read_record(document)
    whole = read(_any, document)
    spec = (whole if where == "$" else whole["deviation"])["spec"]
    guardian = record.deviation
    name, uid = _policy(record, where)
    subject = placed(_subject(record, where), context)
    addition = {part: spec[part] for part in ("processPolicy", "networkPolicy") if spec.get(part)}
    addition |= _rules(guardian, spec.get("rules") or [], subject.namespace)
    return Deviation(
        policy=name,
        policy_uid=uid,
        policy_type=_policy_type(record),
        mode=record.policy_mode,
        what=_what(guardian),
        message=record.description or record.short_description or _message(guardian, subject, name),
        checksum=record.checksum or guardian.metadata.checksum or _checksum(uid or name, _what(guardian), addition),
        connection=_connection(guardian, subject),
        addition=addition,
        matched={target: tuple(matched.matched_patterns) for target, matched in guardian.spec.matches.items()},
    )


def _rules(guardian: Guardian, rules: list[dict[str, Any]], namespace: str | None) -> dict[str, Any]:
    """The rules that would allow it where it was: a record writes them without the scope, which its own scopes say.

    Denies of the very values in that scope, by the patterns that matched, are to go: there a deny would beat the allow.
    """
    if not rules:
        return {}
    scope = {} if namespace is None else {"namespaceSelector": {"matchLabels": {_NAMESPACE: namespace}}}
    scoped = [rule if any(key.endswith("Selector") for key in rule) else {**rule, **scope} for rule in rules]
    denies = []
    for rule in scoped:
        found = guardian.spec.matches.get(rule["target"])
        values = [value for value in rule["values"] if found is not None and value in found.matched_patterns]
        if values:
            denies.append({**rule, "verb": "deny", "values": values})
    return {"rules": scoped, "without": denies} if denies else {"rules": scoped}


def _one(said: str | None, other: str | None, path: str) -> str | None:
    """What two places say of one thing, where at least one does."""
    if said and other and said != other:
        raise EventError(f"Expected `{said}` as the record says, got `{other}` - at `{path}`")
    return said or other or None


def _policy(record: Record, where: str) -> tuple[str, str | None]:
    """The policy's name, else its uid, and its uid."""
    metadata = record.deviation.metadata
    uid = _one(record.policy_uid, metadata.policy_uid, f"{where}.metadata.policy_uid")
    name = _one(record.policy_name, metadata.policy_name, f"{where}.metadata.policy_name")
    if name is None and uid is None:
        raise EventError(f"Expected the policy's name or uid, got neither - at `{where}.metadata.policy_uid`")
    return name or uid or "", uid


def _checksum(policy: str, what: str, addition: dict[str, Any]) -> str:
    """For a deviation without one: what would be allowed by the same addition to the same policy is the same."""
    return blake2b(msgspec.json.encode((policy, what, addition), order="sorted"), digest_size=16).hexdigest()


def _policy_type(record: Record) -> str | None:
    return record.policy_type or ("cluster" if record.deviation.metadata.type == "cluster" else None)


def _what(guardian: Guardian) -> str:
    """process, ingress, egress or container. A ruleset's rules may be about processes as well."""
    if guardian.metadata.type != "cluster":
        return guardian.metadata.type
    targets = [rule.target for rule in guardian.spec.rules or ()]
    return "process" if targets and all(target.startswith("process::") for target in targets) else "container"


def _name(record: Record, subject: Subject) -> str:
    match _what(record.deviation):
        case "process":
            is_host = record.policy_type == "linux-service" or (not record.policy_type and _is_service(subject))
            return _HOST_PROCESS if is_host else _CONTAINER_PROCESS
        case "container":
            return _IMAGE
        case _:
            return _NETWORK


def _is_service(subject: Subject) -> bool:
    return not subject.is_workload and bool(subject.service or subject.service_cgroup)


def _subject(record: Record, where: str) -> Subject:
    scopes = record.deviation.metadata.scopes
    at = f"{where}.metadata.scopes"
    cluster, machine, container = scopes.cluster_selector, scopes.machine_selector, scopes.container_selector
    namespaces, labels = scopes.namespace_selector.labels, scopes.pod_selector.labels
    found = _REF.fullmatch(record.ref)
    machine_uid = _one(record.muid, machine.uid, f"{at}.machineSelector.uid")
    has_pod = record.pod_name or record.pod_kuid or labels is not None
    return Subject(
        cluster=_one(record.cluster_name, cluster.name, f"{at}.clusterSelector.name"),
        cluster_uid=_one(record.cluster_uid, cluster.uid, f"{at}.clusterSelector.uid"),
        node=_one(record.hostname, machine.hostname, f"{at}.machineSelector.hostname"),
        machine_uid=machine_uid or (f"mach:{found[1]}" if found else None),
        source_name=machine.source_name or None,
        namespace=_one(record.namespace, (namespaces or {}).get(_NAMESPACE), f"{at}.namespaceSelector.labels"),
        namespace_labels=namespaces,
        pod=Pod(name=record.pod_name or None, uid=record.pod_kuid or None, labels=labels) if has_pod else None,
        container=_container(record, f"{at}.containerSelector.containerID"),
        image=container.image or None,
        service=scopes.service_selector.name or None,
        service_cgroup=scopes.service_selector.cgroup or None,
        process=_process(record, found),
    )


def _container(record: Record, path: str) -> Container | None:
    """Its whole id where that is given, else the shortened one."""
    scope = record.deviation.metadata.scopes.container_selector
    found = _CONTAINER.fullmatch(record.container_uid or "")
    short = found[1] if found else None
    if scope.id and short and not scope.id.startswith(short):
        raise EventError(f"Expected an id that begins with `{short}`, got `{scope.id}` - at `{path}`")
    id_ = scope.id or short
    return Container(id=id_, name=scope.name or None, image_id=scope.image_id or None) if id_ else None


def _process(record: Record, found: re.Match[str] | None) -> Process | None:
    """Which process it is: by the form of ours, by `ref`, and by what is to be added for it.

    `ref` alone proves no process instance, as its start is in a form of its own: only the form has one that does.
    """
    guardian, scope = record.deviation, record.deviation.metadata.scopes.process_selector
    pid = int(found[2]) if found and 0 < int(found[2]) <= _MAX_PID else None
    given = process_of(record.process or ProcessForm())
    if given.pid is not None and pid is not None and given.pid != pid:
        raise EventError(f"Expected `{pid}` as in `ref`, got `{given.pid}` - at `$.process.pid`")
    added = _added(guardian.spec) if guardian.metadata.type == "process" else None
    described = _DESCRIPTION.match(record.description)
    name, exe = described.groups() if described and guardian.metadata.type == "process" else (None, None)
    process = msgspec.structs.replace(
        given,
        pid=given.pid or pid,
        name=given.name or scope.name or (added.name if added else None) or name,
        exe=given.exe or scope.exe or _only(added.exe if added else []) or exe,
        user=given.user or scope.euser or _only(added.euser if added else []),
    )
    return None if process == Process() else process


def _only(values: list[str]) -> str | None:
    return values[0] if len(values) == 1 and values[0] else None


def _added(spec: Spec) -> Node | None:
    """The one process that is to be added; None: there is none, or more than one."""
    items = [item.policy_node or item for item in spec.process_policy or ()]
    while len(items) == 1:
        [node] = items
        if not node.children:
            return node if node.name else None
        items = node.children
    return None


def _message(guardian: Guardian, subject: Subject, policy: str) -> str:
    """For a deviation without a description."""
    process = subject.process or Process()
    match _what(guardian):
        case "process" if guardian.metadata.type == "process":
            what = f"process {process.name or process.exe or 'of unknown name'}"
        case "process" | "container":
            values = [value for rule in guardian.spec.rules or () for value in rule.values]
            what = ", ".join(values) or f"container {subject.image or 'of unknown image'}"
        case direction:
            connection = _connection(guardian, subject) or Connection()
            peer = connection.server if direction == "egress" else connection.client
            word = "to" if direction == "egress" else "from"
            what = f"{direction} {word} {connection.fqdn or (peer.ip if peer else None) or 'several peers'}"
    return f"{what} deviates from policy {policy}"


def _connection(guardian: Guardian, subject: Subject) -> Connection | None:
    """The connection, where the rule that is to be added has one peer and one port."""
    direction = guardian.metadata.type
    network = guardian.spec.network_policy
    if network is None or direction not in ("ingress", "egress"):
        return None
    rules = network.ingress if direction == "ingress" else network.egress
    if len(rules) != 1:
        return None
    [rule] = rules
    peers = rule.sources if direction == "ingress" else rule.targets
    if len(peers) != 1 or len(rule.ports) != 1 or rule.ports[0].end_port not in (None, rule.ports[0].port):
        return None
    peer, port = peers[0], rule.ports[0].port
    ip, name = _address(peer), _only(peer.dns_selector)
    if ip is None and name is None:
        return None
    container = subject.container
    own = Endpoint(
        workload=container.id if container else None,
        name=container.name if container else None,
        image=subject.image,
        namespace=subject.namespace,
        service=subject.service,
        port=port if direction == "ingress" else None,
    )
    other = Endpoint(ip=ip, port=port if direction == "egress" else None)
    client, server = (other, own) if direction == "ingress" else (own, other)
    return Connection(client=client, server=server, protocol=rule.ports[0].protocol.lower(), fqdn=name)


def _address(peer: Peer) -> str | None:
    """The address of a block of one."""
    try:
        network = ip_network(peer.ip_block.cidr) if peer.ip_block else None
    except ValueError:
        return None
    return str(network.network_address) if network is not None and network.num_addresses == 1 else None
