"""Falco alerts, as its `http_output` sends them with `json_output: true`.

Falco's stock rules do not output the pid and the start of the process; without them a kill is refused. Add them:

    append_output:
      - extra_fields: [proc.pid, proc.pid.ts, proc.ppid, proc.pgid, container.full_id, k8s.pod.uid, evt.hostname]

Only alerts of the `syscall` source speak of a process and of the node that Falco runs on. Those of plugins (Kubernetes
audit, clouds) speak of an object somewhere else: such an alert never names a process.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from quell.catalogue.mappings import catalogue_name
from quell.detectors.falco_lineage import lineage_of
from quell.detectors.form import ID
from quell.detectors.line import read
from quell.errors import EventError
from quell.ids import uuid7
from quell.model.details import Connection, Details, Endpoint, PlainDetails, Role, SecurityDetails
from quell.model.event import Category, Event, Kind, Level
from quell.model.subject import Container, Pod, Process, Subject

#: Falco writes numbers as numbers; some forwarders write them as texts. A value it does not know is null or <NA>.
Number = int | float | str | None

_ABSENT = frozenset((None, "", "<NA>", "N/A"))
_OPENING = frozenset(("connect",))
_TAKING = frozenset(("accept", "accept4", "listen"))
_INTERNAL = "Falco internal:"
_MAX_PID = 2**31 - 1
_MAX_UID = 2**32 - 2
_MAX_NANOSECONDS = 253402300800 * 10**9

#: Falco's own words, in which an alert has them, and in lower case.
_WORDS = {level.value: level for level in Level} | {"Informational": Level.INFO}
_LEVELS = _WORDS | {word.lower(): level for word, level in _WORDS.items()}


class Fields(Struct, kw_only=True, gc=False):
    """Those of output_fields that say whom an alert is about, in the order in which Falco writes them.

    Falco sorts by name, and the decoder looks for the next field after the one it found last.
    """

    container_full_id: str | None = field(name="container.full_id", default=None)
    container_host_network: bool | str | None = field(name="container.host_network", default=None)
    container_id: str | None = field(name="container.id", default=None)
    container_image: str | None = field(name="container.image", default=None)
    container_image_id: str | None = field(name="container.image.id", default=None)
    container_repository: str | None = field(name="container.image.repository", default=None)
    container_tag: str | None = field(name="container.image.tag", default=None)
    container_name: str | None = field(name="container.name", default=None)
    evt_hostname: str | None = field(name="evt.hostname", default=None)
    evt_time: Number = field(name="evt.time", default=None)
    evt_time_iso: Number = field(name="evt.time.iso8601", default=None)
    namespace: str | None = field(name="k8s.ns.name", default=None)
    pod_labels: list[str] | dict[str, str] | str | None = field(name="k8s.pod.labels", default=None)
    pod_name: str | None = field(name="k8s.pod.name", default=None)
    pod_uid: str | None = field(name="k8s.pod.uid", default=None)
    ancestor_2: str | None = field(name="proc.aname[2]", default=None)
    ancestor_3: str | None = field(name="proc.aname[3]", default=None)
    ancestor_4: str | None = field(name="proc.aname[4]", default=None)
    ancestor_5: str | None = field(name="proc.aname[5]", default=None)
    ancestor_6: str | None = field(name="proc.aname[6]", default=None)
    ancestor_7: str | None = field(name="proc.aname[7]", default=None)
    process_cmdline: str | None = field(name="proc.cmdline", default=None)
    process_cwd: str | None = field(name="proc.cwd", default=None)
    process_exe: str | None = field(name="proc.exepath", default=None)
    process_name: str | None = field(name="proc.name", default=None)
    process_pgid: Number = field(name="proc.pgid", default=None)
    process_pid: Number = field(name="proc.pid", default=None)
    process_start: Number = field(name="proc.pid.ts", default=None)
    parent: str | None = field(name="proc.pname", default=None)
    process_ppid: Number = field(name="proc.ppid", default=None)
    process_vpgid: Number = field(name="proc.vpgid", default=None)
    process_vpid: Number = field(name="proc.vpid", default=None)
    user_name: str | None = field(name="user.name", default=None)
    user_uid: Number = field(name="user.uid", default=None)


class Alert(Struct, kw_only=True, gc=False):
    """One line of Falco, in its order."""

    hostname: str | None = None
    output_fields: Fields | None = None
    priority: str
    rule: str
    source: str | None = None
    time: str | None = None
    #: Falcosidekick's.
    uuid: str | None = None


class AuditFields(Struct, kw_only=True):
    """Those of output_fields that say which object of Kubernetes an audit record is about."""

    user: str | None = field(name="ka.user.name", default=None)
    namespace: str | None = field(name="ka.target.namespace", default=None)
    resource: str | None = field(name="ka.target.resource", default=None)
    name: str | None = field(name="ka.target.name", default=None)
    pod: str | None = field(name="ka.target.pod.name", default=None)


class Audit(Struct, kw_only=True):
    output_fields: AuditFields | None = None


class Talk(Struct, kw_only=True):
    """Those of output_fields that are details: what was opened, and who talked to whom."""

    name: str | None = field(name="fd.name", default=None)
    path: str | None = field(name="fs.path.name", default=None)
    protocol: str | None = field(name="fd.l4proto", default=None)
    server_name: str | None = field(name="fd.sip.name", default=None)
    #: The address of this end of the connection.
    local: str | None = field(name="fd.lip", default=None)
    call: str | None = field(name="evt.type", default=None)


class Told(Struct, kw_only=True):
    output: str = ""
    output_fields: Talk | None = None


_alert = msgspec.json.Decoder(Alert)
_audit = msgspec.json.Decoder(Audit)
_told = msgspec.json.Decoder(Told)
_nothing = Fields()


class Falco:
    name = "falco"

    def decode(self, line: bytes, *, id: str | None, received: float) -> Event:  # noqa: A002 - the word of the model
        """One alert. The event's name is Falco's rule name, its catalogue name what the mapping says."""
        alert = read(_alert, line)
        level = _LEVELS.get(alert.priority) or _LEVELS.get(alert.priority.lower())
        if level is None:
            raise EventError(f"Expected a priority of Falco, got `{alert.priority}` - at `$.priority`")
        rule = alert.rule
        if not rule:
            raise EventError("Expected the name of a rule, got an empty text - at `$.rule`")
        fields = alert.output_fields or _nothing
        source = alert.source
        if rule.startswith(_INTERNAL) or source == "internal":
            category, kind, known, subject = Category.EVENT, None, None, _about_itself(alert, fields)
        else:
            category = Category.SECURITY_EVENT
            audit = None if source == "syscall" else read(_audit, line).output_fields or AuditFields()
            # Old releases of Falco do not say the source.
            if audit is None or (source is None and audit.user is None and audit.resource is None):
                subject = _on_the_node(alert, fields)
                # Whoever asks for more of the ancestors has asked for these as well.
                if fields.process_ppid is not None and subject.process is not None and (above := lineage_of(line)):
                    subject = replace(subject, process=replace(subject.process, lineage=above))
            else:
                subject = _elsewhere(fields, audit)
            # The same text object each time: what is looked up by it then compares by identity.
            rule, known, kind = _mapped(rule, subject.container is not None or subject.pod is not None)
        uuid = alert.uuid
        if uuid is not None and ID.fullmatch(uuid) is None:
            uuid = None
        return Event(
            id=id or uuid or uuid7(),
            id_given=uuid is not None,
            time=_time(alert, fields),
            received=received,
            source="falco",
            category=category,
            kind=kind,
            name=rule,
            catalogue_name=known,
            level=level,
            subject=subject,
            raw=line,
            decode=details,
        )


def details(line: bytes) -> Details | None:
    """The details of an alert's line (Event.decode)."""
    alert, told = read(_alert, line), read(_told, line)
    if alert.rule.startswith(_INTERNAL) or alert.source == "internal":
        return PlainDetails(message=told.output)
    talk = told.output_fields or Talk()
    connection = _connection(talk)
    if connection is None:
        return SecurityDetails(message=told.output, file=_text(talk.path) or _text(talk.name))
    role = _role(talk, connection)
    here = _on_the_node(alert, alert.output_fields or _nothing)
    if role is Role.ATTACKER:
        connection = replace(connection, client=_inhabited(connection.client, here))
    elif role is Role.VICTIM:
        connection = replace(connection, server=_inhabited(connection.server, here))
    return SecurityDetails(message=told.output, file=_text(talk.path), connection=connection, role=role)


@lru_cache(maxsize=4096)
def _mapped(rule: str, container: bool) -> tuple[str, str | None, Kind]:
    """The rule's name, the catalogue's and the kind."""
    mapping = catalogue_name("falco", rule, container)
    return (rule, None, Kind.INCIDENT) if mapping is None else (rule, mapping.name, mapping.kind)


def _time(alert: Alert, fields: Fields) -> float | None:
    """Epoch seconds; None where the alert has no time that can be read (destructive actions are then refused)."""
    stamp = fields.evt_time
    if stamp is None:
        stamp = fields.evt_time_iso
    nanoseconds = stamp if type(stamp) is int else _number(stamp, 0, _MAX_NANOSECONDS)
    if nanoseconds is not None and 0 < nanoseconds < _MAX_NANOSECONDS:
        return nanoseconds / 1e9
    try:
        moment = datetime.fromisoformat(alert.time or "")
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment.timestamp()


def _about_itself(alert: Alert, fields: Fields) -> Subject:
    return Subject(node=_text(fields.evt_hostname) or _text(alert.hostname))


def _elsewhere(fields: Fields, audit: AuditFields) -> Subject:
    """An alert of a plugin: an object of the Kubernetes audit log, or nothing that is known here."""
    namespace, pod, name = _text(audit.namespace), _text(audit.pod), _text(audit.name)
    if audit.resource == "pods":
        pod = pod or name
    elif audit.resource == "namespaces":
        namespace = namespace or name
    return Subject(
        namespace=namespace,
        pod=None if pod is None else Pod(name=pod),
        user=_text(audit.user) or _text(fields.user_name),
    )


def _on_the_node(alert: Alert, fields: Fields) -> Subject:
    # The hot path: tests of absence stand inline, because a call a field would double the time of an alert.
    container_id: str | None = fields.container_full_id or fields.container_id
    container = image = pod = namespace = None
    if container_id not in _ABSENT and fields.container_id != "host":
        repository, tag = fields.container_repository, fields.container_tag
        if repository in _ABSENT:
            image = _text(fields.container_image)
        else:
            image = repository if tag in _ABSENT else f"{repository}:{tag}"
        name, host_network = fields.container_name, fields.container_host_network
        container = Container(
            id=container_id,  # type: ignore[arg-type] # not None, which is in _ABSENT
            name=None if name in _ABSENT else name,
            image_id=_text(fields.container_image_id),
            host_network=None if host_network is None else _flag(host_network),
        )
    if fields.container_id != "host":
        namespace = fields.namespace
        if namespace in _ABSENT:
            namespace = None
        name, uid = fields.pod_name, fields.pod_uid
        if name not in _ABSENT or uid not in _ABSENT:
            labels = fields.pod_labels
            pod = Pod(
                name=None if name in _ABSENT else name,
                uid=None if uid in _ABSENT else uid,
                labels=None if labels is None else _labels(labels),
            )
    user = fields.user_name
    if user in _ABSENT:
        user = None
    node = fields.evt_hostname or alert.hostname
    return Subject(
        node=None if node in _ABSENT else node,
        namespace=namespace,
        pod=pod,
        container=container,
        image=image,
        process=_process(fields, user),
        user=user,
    )


def _process(fields: Fields, user: str | None) -> Process | None:
    name, exe, cmdline, cwd = fields.process_name, fields.process_exe, fields.process_cmdline, fields.process_cwd
    pid, ppid, uid, started = fields.process_pid, fields.process_ppid, fields.user_uid, fields.process_start
    known_pid = None if pid is None else _number(pid, 1, _MAX_PID)
    if known_pid is None and name in _ABSENT and exe in _ABSENT and cmdline in _ABSENT:
        return None
    start = None if started is None else _number(started, 1, _MAX_NANOSECONDS)
    return Process(
        pid=known_pid,
        start_time=None if start is None else start / 1e9,
        name=None if name in _ABSENT else name,
        exe=None if exe in _ABSENT else exe,
        cmdline=None if cmdline in _ABSENT else cmdline,
        cwd=None if cwd in _ABSENT else cwd,
        ppid=None if ppid is None else _number(ppid, 0, _MAX_PID),
        pgid=_group(fields, known_pid),
        uid=None if uid is None else _number(uid, 0, _MAX_UID),
        user=user,
        ancestors=_ancestors(fields),
    )


def _group(fields: Fields, pid: int | None) -> int | None:
    if fields.process_pgid is not None:
        return _number(fields.process_pgid, 1, _MAX_PID)
    if fields.process_vpgid is None or pid is None or _number(fields.process_vpid, 1, _MAX_PID) != pid:
        # vpgid counts in the process's own PID namespace: it is the host's only where the pid is the same in both.
        return None
    return _number(fields.process_vpgid, 1, _MAX_PID)


def _ancestors(fields: Fields) -> tuple[str, ...]:
    if fields.ancestor_2 is None:
        return () if fields.parent in _ABSENT else (fields.parent,)  # type: ignore[return-value] # not None
    names = (
        fields.parent,
        fields.ancestor_2,
        fields.ancestor_3,
        fields.ancestor_4,
        fields.ancestor_5,
        fields.ancestor_6,
        fields.ancestor_7,
    )
    return tuple([name for name in names if name not in _ABSENT])  # type: ignore[misc] # None is in _ABSENT


def _labels(value: list[str] | dict[str, str] | str | None) -> dict[str, str] | None:
    """Falco writes labels as `key:value`, in a list or with commas between; null is: not known."""
    if value is None or isinstance(value, dict):
        return value
    if isinstance(value, str):
        if value in _ABSENT:
            return None
        value = value.split(",")
    pairs = (entry.strip().partition(":") for entry in value)
    return {key.strip(): text.strip() for key, separator, text in pairs if separator}


def _text(value: str | None) -> str | None:
    return None if value in _ABSENT else value


def _flag(value: bool | str | None) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower())
    return value


def _number(value: Number, lowest: int, highest: int) -> int | None:
    """The number; None where Falco does not know it (null, <NA>, -1) or it is out of range."""
    if type(value) is not int:
        if isinstance(value, str):
            if not (value.isascii() and value.isdigit() and len(value) < 20):
                return None
            value = int(value)
        elif value is None:
            return None
    return int(value) if lowest <= value <= highest else None


_ADDRESS = r"(?:\[([0-9a-fA-F:.]+)\]|([0-9a-fA-F:.]+)):(\d{1,5})"
_CONNECTION = re.compile(rf"{_ADDRESS}->{_ADDRESS}")


def _connection(talk: Talk) -> Connection | None:
    """fd.name of a connection is `client:port->server:port`, addresses in brackets or bare."""
    match = _CONNECTION.fullmatch(talk.name or "")
    if match is None:
        return None
    client, server = _endpoint(match[1] or match[2], match[3]), _endpoint(match[4] or match[5], match[6])
    if client is None or server is None:
        return None
    protocol, name = talk.protocol, talk.server_name
    return Connection(client=client, server=server, protocol=_text(protocol), fqdn=_text(name))


def _endpoint(address: str, port: str) -> Endpoint | None:
    number = int(port)
    return Endpoint(ip=address, port=number) if number <= 65535 else None


def _role(talk: Talk, connection: Connection) -> Role | None:
    """Which end the alert's process has: the one that opens a connection, or the one that takes it; None: not told."""
    if talk.call in _OPENING:
        return Role.ATTACKER
    if talk.call in _TAKING:
        return Role.VICTIM
    client = connection.client is not None and connection.client.ip == talk.local
    server = connection.server is not None and connection.server.ip == talk.local
    if client == server:
        return None
    return Role.ATTACKER if client else Role.VICTIM


def _inhabited(endpoint: Endpoint | None, subject: Subject) -> Endpoint | None:
    """The end of a connection with the workload that is there."""
    if endpoint is None or subject.container is None:
        return endpoint
    return replace(
        endpoint,
        workload=subject.container.id,
        name=subject.container.name,
        image=subject.image,
        namespace=subject.namespace,
    )
