"""What Quell must be allowed in a cluster, by what it is to do there, each with the reason; and that as manifests.

Kubernetes API reference, rbac.authorization.k8s.io/v1. The tests compare this with what the API is really asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec import Struct

from quell.catalogue.table import is_broad
from quell.model.action import KillPod
from quell.model.policy import Policy
from quell.model.rule import Mode, Rule

#: A service account: namespace and name.
ACCOUNT = ("quell", "quell-controller")


class Permission(Struct, frozen=True, kw_only=True):
    """group "": the core of the API. why: ends a comment beside it."""

    group: str = ""
    resource: str
    verbs: tuple[str, ...]
    why: str

    @property
    def told(self) -> str:
        group = f' in API group "{self.group}"' if self.group else ""
        return f"{' and '.join(self.verbs)} on {self.resource}{group}"


#: Of the watch, in the order of its kinds. list and watch: all there is, then what changes.
WATCH = tuple(
    Permission(resource=resource, verbs=("list", "watch"), why=why)
    for resource, why in (
        ("nodes", "machine ids and addresses: which agent answers for which node"),
        ("namespaces", "their labels, which rules and policies select by"),
        ("pods", "labels, owners, containers and addresses of what runs"),
        ("services", "which pods belong to a service"),
    )
)
#: Of agentKillPod.
KILL = (
    Permission(
        resource="pods",
        verbs=("get", "delete"),
        why="agentKillPod: each pod is read and checked, then deleted under its uid",
    ),
)
#: Of agentKillPod where kubernetes.disruption_budgets is respect.
BUDGETS = (
    Permission(
        group="policy",
        resource="poddisruptionbudgets",
        verbs=("list",),
        why="agentKillPod: a pod that its disruption budget cannot spare is left alone",
    ),
)


class Role(Struct, frozen=True, kw_only=True):
    """namespace "": a ClusterRole. notes: comments above it."""

    name: str
    permissions: tuple[Permission, ...]
    namespace: str = ""
    notes: tuple[str, ...] = ()


class Killers(NamedTuple):
    """Rules and policies with agentKillPod, such as "rule 8 (shells)": those that act, and those that do not by now."""

    acting: tuple[str, ...]
    others: tuple[str, ...]


def killers(rules: Iterable[Rule], policies: Iterable[Policy]) -> Killers:
    """What is disabled, or only watches, deletes nothing."""
    acting: list[str] = []
    others: list[str] = []
    for rule in rules:
        if any(isinstance(action, KillPod) for action in rule.actions):
            acts = not rule.disabled and rule.mode is Mode.ENFORCE and not is_broad(rule)
            (acting if acts else others).append(f"rule {rule.id} ({rule.name})" if rule.id else f"rule {rule.name}")
    for policy in policies:
        entries = [entry for entry in (*policy.default, *policy.actions) if isinstance(entry.action, KillPod)]
        if entries:
            acts = policy.enabled and policy.mode is Mode.ENFORCE and any(entry.enabled for entry in entries)
            (acting if acts else others).append(f"policy {policy.name}")
    return Killers(tuple(acting), tuple(others))


def roles(*, watches: bool, kills: bool, budgets: bool, namespaces: Sequence[str] = ()) -> list[Role]:
    """The least. kills: a rule or policy asks for agentKillPod. namespaces: pods are to be killed in these only."""
    made = []
    if watches:
        made.append(Role(name="quell-watch", permissions=WATCH, notes=("What runs in the cluster: reading only.",)))
    if kills:
        permissions = (*KILL, *(BUDGETS if budgets else ()))
        notes = ("Ending pods, for rules and policies with agentKillPod.",)
        made += [
            Role(name="quell-kill-pods", permissions=permissions, namespace=namespace, notes=notes)
            for namespace in (dict.fromkeys(namespaces) or ("",))
        ]
    return made


def role_for(verb: str, resource: str) -> str:
    """What has to stand in a role for this request, for messages."""
    for each in (*WATCH, *KILL, *BUDGETS):
        if each.resource == resource and verb in each.verbs:
            return Permission(group=each.group, resource=resource, verbs=(verb,), why="").told
    return f"{verb} on {resource}"


def manifests(made: Iterable[Role], account: tuple[str, str] = ACCOUNT) -> str:
    """Roles and their bindings to a service account as YAML, each permission with a comment that says why."""
    return "---\n".join(part for role in made for part in (_role(role), _binding(role, account)))


def _role(role: Role) -> str:
    lines = [f"# {note}" for note in role.notes]
    lines += [
        "apiVersion: rbac.authorization.k8s.io/v1",
        f"kind: {'Role' if role.namespace else 'ClusterRole'}",
        *_metadata(role),
        "rules:",
    ]
    for each in role.permissions:
        lines += [
            f"  # {each.why}",
            f'  - apiGroups: ["{each.group}"]',
            f"    resources: [{each.resource}]",
            f"    verbs: [{', '.join(each.verbs)}]",
        ]
    return "\n".join(lines) + "\n"


def _binding(role: Role, account: tuple[str, str]) -> str:
    kind = "Role" if role.namespace else "ClusterRole"
    return "\n".join(
        (
            "apiVersion: rbac.authorization.k8s.io/v1",
            f"kind: {kind}Binding",
            *_metadata(role),
            "roleRef:",
            "  apiGroup: rbac.authorization.k8s.io",
            f"  kind: {kind}",
            f"  name: {role.name}",
            "subjects:",
            "  - kind: ServiceAccount",
            f"    name: {account[1]}",
            f"    namespace: {account[0]}",
            "",
        )
    )


def _metadata(role: Role) -> list[str]:
    lines = ["metadata:", f"  name: {role.name}"]
    return [*lines, f"  namespace: {role.namespace}"] if role.namespace else lines
