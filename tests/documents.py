"""Documents of every kind as hypothesis makes them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from ipaddress import ip_network

from hypothesis import strategies as st

from quell.catalogue.names import resolve
from quell.catalogue.policy_table import SELECTORS, Target
from quell.catalogue.table import CRITERIA, Form, allowed
from quell.documents.group import KEYS, RESERVED
from quell.model.action import (
    Action,
    Kill,
    KillPod,
    KillProcess,
    KillProcessGroup,
    KillProcessTree,
    MakeOpsFlag,
    MakeRedFlag,
    Quarantine,
    ReniceProcess,
    SendWebhook,
    Severity,
    SuppressLog,
    word,
)
from quell.model.event import Category, Kind, Level
from quell.model.policy import (
    Block,
    Direction,
    Expected,
    Names,
    NetworkRule,
    Operator,
    Policy,
    PolicyType,
    Ports,
    ProcessNode,
    Requirement,
    ResponseEntry,
    Ruleset,
    RulesetRule,
    Selector,
    SelectorKind,
)
from quell.model.rule import Criterion, Group, GroupCriterion, Mode, Rule, Webhook, WebhookFilter, WebhookType
from quell.model.syslog import Facility, Framing, MessageFormat, Syslog, SyslogFilter

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
names = st.one_of(
    st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=12),
    st.sampled_from(["true", "12", "null", "- a", "a: b", "#", "é ü", "[x", "a b"]),
).filter(lambda text: text.isprintable() and text not in RESERVED)
durations = st.one_of(st.sampled_from([0.25, 30.0, 90.0, 3600.0, 86400.0]), st.floats(0.001, 1e9))
values = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
flags = {"severity": st.sampled_from(Severity), "content": texts, "webhooks": st.lists(names, max_size=2).map(tuple)}

actions: st.SearchStrategy[Action] = st.one_of(
    st.builds(Quarantine, ttl=st.none() | durations, strict=st.booleans()),
    st.builds(SendWebhook, endpoints=st.lists(names, max_size=2).map(tuple)),
    st.just(SuppressLog()),
    st.builds(MakeRedFlag, impact=texts, **flags),
    st.builds(MakeOpsFlag, impact=texts | st.just("y" * 200), **flags),
    st.sampled_from([KillProcess(), KillProcessGroup(), KillProcessTree()]),
    st.builds(KillPod, grace_period=st.integers(0, 3600)),
    st.builds(ReniceProcess, priority=st.integers(-20, 19)),
)


@st.composite
def criteria(draw: st.DrawFn, category: Category) -> tuple[Criterion, ...]:
    """At most one of each type, so that none contradicts another."""
    specs = [spec for spec in CRITERIA.values() if category in spec.categories]
    chosen = draw(st.lists(st.sampled_from(specs), unique_by=lambda spec: spec.type, max_size=4))
    count = st.integers(1, 99).map(str)
    forms = {
        Form.NAME: values.filter(lambda text: resolve(text) is None) | st.just("Container.Start"),
        Form.LEVEL: st.sampled_from([*Level, ">=Warning"]).map(str),
        Form.KIND: st.sampled_from(Kind).map(str),
        Form.REPORT: st.sampled_from(["container", "host", "registry", "platform"]),
        Form.COUNT: count | count.map(">={}".format),
        Form.FIXED_COUNT: count | count.map(">{}/30".format),
    }
    return tuple(
        Criterion(
            type=f"label:{draw(names.filter(lambda text: ':' not in text))}" if spec.type == "label:" else spec.type,
            values=tuple(draw(st.lists(forms.get(spec.form, values), min_size=1, max_size=2))),
        )
        for spec in chosen
    )


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    category = draw(st.sampled_from(Category))
    can = actions.filter(lambda action: allowed(category, word(action)))
    kind = draw(st.none() | st.sampled_from(Kind)) if category is Category.SECURITY_EVENT else None
    chosen = tuple(draw(st.lists(can, min_size=1, max_size=3, unique_by=repr)))
    return Rule(
        id=draw(st.integers(0, 2**32 - 1)),
        name=draw(names),
        category=category,
        kind=kind,
        group=draw(texts),
        criteria=tuple(one for one in draw(criteria(category)) if one.type != "kind" or kind is None),
        actions=chosen,
        webhooks=tuple(draw(st.lists(names, max_size=2, unique=True))),
        disabled=draw(st.booleans()),
        comment=draw(texts),
        cfg_type=draw(st.sampled_from(["user_created", "ground", "federal"])),
        mode=draw(st.sampled_from(Mode)),
        cooldown=draw(st.none() | durations),
        approval=draw(st.booleans()),
        evidence=any(isinstance(action, Kill) for action in chosen) and draw(st.booleans()),
        limit=draw(st.none() | st.tuples(st.integers(1, 999), durations)),
        max_age=draw(st.none() | durations),
        allow_broad=draw(st.booleans()),
    )


groups = st.builds(
    Group,
    name=names,
    comment=texts,
    criteria=st.lists(
        st.builds(
            GroupCriterion,
            key=st.sampled_from([key for key in KEYS if key != "address"]) | names.filter(lambda text: text != "ns:"),
            op=st.sampled_from(["=", "!=", "contains", "prefix"]),
            value=values,
        ).filter(lambda criterion: criterion.key != "address"),
        max_size=3,
    ).map(tuple),
)

webhooks = st.builds(
    Webhook,
    # A path's last part names an endpoint, beside the words that stand there already.
    name=names.filter(lambda text: "/" not in text and text not in ("deliveries", "dead-letters")),
    url=st.sampled_from(["https://example.org/hook", "https://[::1]:8443/a?b=c"]),
    type=st.sampled_from(WebhookType),
    enable=st.booleans(),
    default=st.booleans(),
    use_proxy=st.booleans(),
    secret=st.just("") | st.binary(min_size=24, max_size=64).map(lambda key: "whsec_" + base64.b64encode(key).decode()),
    headers=st.dictionaries(st.sampled_from(["Authorization", "X-Team"]), st.sampled_from(["Bearer x", "1", ""])),
    filter=st.builds(
        WebhookFilter,
        categories=st.lists(st.sampled_from(Category), max_size=2).map(tuple),
        level=st.none() | st.sampled_from(Level),
        flags=st.booleans(),
    ),
    ca_file=st.none() | values,
    verify_tls=st.booleans(),
    allow_http=st.booleans(),
    allow_private=st.booleans(),
)

filters = st.builds(
    SyslogFilter,
    categories=st.lists(st.sampled_from(Category), max_size=2).map(tuple),
    level=st.none() | st.sampled_from(Level),
    flags=st.booleans(),
)
_syslog = {
    "name": names.filter(lambda text: "/" not in text),
    "format": st.sampled_from(MessageFormat),
    "enable": st.booleans(),
    "filter": filters,
    "facility": st.sampled_from(Facility),
    "hostname": st.sampled_from(["", "q1"]),
    "max_length": st.none() | st.integers(1024, 65_507),
    "allow_private": st.booleans(),
}
syslogs = st.one_of(
    st.builds(Syslog, address=st.sampled_from(["udp://logs.example.org", "udp://[2001:db8::1]:514"]), **_syslog),
    st.builds(Syslog, address=st.just("tcp://logs:601"), framing=st.sampled_from(Framing), **_syslog),
    st.builds(
        Syslog,
        address=st.just("tls://logs.example.org:6514"),
        ca_file=st.none() | values,
        client_cert_file=values,
        client_key_file=st.none() | values,
        verify_tls=st.booleans(),
        **_syslog,
    ),
)


@st.composite
def selectors(draw: st.DrawFn, kind: SelectorKind) -> Selector:
    keys = st.sampled_from(SELECTORS[kind].fields) if SELECTORS[kind].fields else values
    several = st.lists(values, min_size=1, max_size=2).map(tuple)
    requirement = st.one_of(
        st.builds(Requirement, key=keys, operator=st.sampled_from([Operator.IN, Operator.NOT_IN]), values=several),
        st.builds(Requirement, key=keys, operator=st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST])),
    )
    return Selector(kind=kind, requirements=tuple(draw(st.lists(requirement, min_size=1, max_size=3))))


@st.composite
def entries(draw: st.DrawFn, specific: bool) -> ResponseEntry:
    action = draw(actions)
    kinds = [SelectorKind.CLUSTER, SelectorKind.POD, SelectorKind.PROCESS]
    chosen = draw(st.sets(st.sampled_from(kinds), min_size=1)) if specific else set()
    made = tuple(draw(selectors(kind)) for kind in SelectorKind if kind in chosen)
    evidence = isinstance(action, Kill) and draw(st.booleans())
    return ResponseEntry(action=action, selectors=made, enabled=draw(st.booleans()), evidence=evidence)


names_of_processes = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6)
globs = st.lists(values, min_size=1, max_size=2).map(tuple)


@st.composite
def ports(draw: st.DrawFn) -> Ports:
    port = draw(st.integers(0, 65535))
    end = draw(st.none() | st.integers(port, 65535))
    return Ports(port=port, protocol=draw(st.sampled_from(["TCP", "UDP"])), end=end)


several_ports = st.lists(ports(), max_size=2).map(tuple)


@st.composite
def processes(draw: st.DrawFn, ids: list[str], depth: int = 1) -> ProcessNode:
    """ids: what is left of those that a tree may use; each is of one node."""
    children = st.deferred(lambda: processes(ids, depth + 1))
    return ProcessNode(
        id=ids.pop(),
        name=draw(names_of_processes),
        exe=draw(globs),
        euser=draw(globs) if depth == 1 or draw(st.booleans()) else (),
        listening=draw(several_ports),
        children=tuple(draw(children) for _ in range(draw(st.integers(0, 2))) if ids and depth < 4),
    )


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    network = draw(st.ip_addresses().map(lambda ip: ip_network(f"{ip}/{draw(st.integers(0, 30))}", strict=False)))
    parts = st.integers(network.prefixlen + 1, 32).flatmap(
        lambda length: st.just(next(network.subnets(new_prefix=length)))
    )
    return Block(cidr=str(network), exceptions=tuple(map(str, draw(st.lists(parts, max_size=3)))))


@st.composite
def network_rules(draw: st.DrawFn, ids: list[str]) -> NetworkRule:
    peer = st.one_of(blocks(), st.builds(Names, names=globs))
    return NetworkRule(
        peers=tuple(draw(st.lists(peer, min_size=1, max_size=2))),
        ports=tuple(draw(st.lists(ports(), min_size=1, max_size=2))),
        processes=tuple(draw(st.lists(st.sampled_from(ids), unique=True, max_size=2))) if ids else (),
    )


def _ids(nodes: Sequence[ProcessNode]) -> list[str]:
    return [id_ for node in nodes for id_ in (node.id, *_ids(node.children))]


@st.composite
def expectations(draw: st.DrawFn) -> Expected:
    left = draw(st.lists(names_of_processes, unique=True, max_size=8))
    roots: tuple[ProcessNode, ...] | None = None
    if draw(st.booleans()):
        roots = tuple(draw(processes(left)) for _ in range(draw(st.integers(0, 2))) if left)
    rules = st.none() | st.lists(network_rules(_ids(roots or ())), max_size=2).map(tuple)
    directions = st.lists(st.sampled_from(Direction), unique=True, max_size=2).map(
        lambda some: tuple(direction for direction in Direction if direction in some)
    )
    return Expected(
        processes=roots,
        ingress=draw(rules),
        egress=draw(rules),
        no_processes=draw(st.booleans()),
        no_connections=draw(directions),
        no_private_connections=draw(directions),
        no_public_connections=draw(directions),
    )


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    type_ = draw(st.sampled_from(PolicyType))
    scope = {
        PolicyType.CONTAINER: [SelectorKind.NAMESPACE, SelectorKind.CONTAINER],
        PolicyType.LINUX_SERVICE: [SelectorKind.MACHINE, SelectorKind.SERVICE],
        PolicyType.CLUSTER: [SelectorKind.CLUSTER],
        PolicyType.TRACE: [SelectorKind.TRACE, SelectorKind.USER],
    }[type_]
    acts = type_ is not PolicyType.TRACE
    return Policy(
        name=draw(names),
        uid=draw(texts),
        type=type_,
        enabled=draw(st.booleans()),
        mode=draw(st.sampled_from(Mode)),
        scope=tuple(draw(selectors(kind)) for kind in scope),
        rulesets=tuple(draw(st.lists(values, max_size=2))) if type_ is PolicyType.CLUSTER else (),
        default=tuple(draw(st.lists(entries(specific=False), max_size=2))) if acts else (),
        actions=tuple(draw(st.lists(entries(specific=True), max_size=2))) if acts else (),
        expected=draw(expectations()) if type_ in (PolicyType.CONTAINER, PolicyType.LINUX_SERVICE) else Expected(),
        allowed_flags=() if acts else tuple(draw(st.lists(values, unique=True, max_size=2))),
    )


rulesets = st.builds(
    Ruleset,
    name=names.filter(lambda text: " " not in text),
    type=st.sampled_from([PolicyType.CLUSTER, PolicyType.CONTAINER]),
    rules=st.lists(
        st.builds(
            RulesetRule,
            target=st.sampled_from(Target).map(str),
            allow=st.booleans(),
            values=st.lists(values, min_size=1, max_size=2).map(tuple),
            selectors=selectors(SelectorKind.NAMESPACE).map(lambda selector: (selector,)),
        ),
        max_size=2,
    ).map(tuple),
)
