"""What an event says beside its subject, one struct a category. SEMANTICS section 1, the table of categories."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct


class Endpoint(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One side of a connection."""

    ip: str | None = None
    port: int | None = None
    workload: str | None = None
    name: str | None = None
    image: str | None = None
    namespace: str | None = None
    service: str | None = None


class Connection(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    client: Endpoint | None = None
    server: Endpoint | None = None
    protocol: str | None = None
    fqdn: str | None = None


class Role(StrEnum):
    """Which side the event's subject was on; a victim is never isolated (SEMANTICS section 4, direction)."""

    ATTACKER = "attacker"
    VICTIM = "victim"


class PlainDetails(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag="event"):
    message: str = ""
    user: str | None = None
    #: What the message says, for programs.
    facts: dict[str, str] = {}
    #: Of Container.Quarantined and Container.Unquarantined: the ids of the rules that hold or held it,
    rules: tuple[int, ...] = ()
    #: all its holders, such as rule/8, policy/NAME and user/NAME,
    holders: tuple[str, ...] = ()
    #: and its key.
    quarantine: str | None = None


class SecurityDetails(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag="security-event"):
    message: str = ""
    file: str | None = None
    connection: Connection | None = None
    severity: str | None = None
    sensor: str | None = None
    role: Role | None = None
    #: For a DLP threat: the groups its sensor is set for.
    groups: tuple[str, ...] = ()


class Vulnerability(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    name: str
    #: Critical, High, Medium, Low or Info.
    severity: str
    score: float | None = None
    package: str | None = None
    version: str | None = None
    #: The version that mends it; None where there is none.
    fixed_version: str | None = None
    #: True where the source says that there is a fix without naming a version.
    fixed: bool = False
    published: float | None = None
    link: str | None = None

    @property
    def has_fix(self) -> bool:
        return self.fixed or bool(self.fixed_version)


class CveReport(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag="cve-report"):
    #: container, host, registry or platform.
    report: str = "container"
    vulnerabilities: tuple[Vulnerability, ...] = ()


class ComplianceItem(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    #: With its benchmark's letter: D.5.4, K.4.1.1, I.4.1, or <group>/<check>.
    number: str
    failed: bool
    result: str = ""
    level: str | None = None
    text: str = ""


class ComplianceReport(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag="compliance"):
    items: tuple[ComplianceItem, ...] = ()
    #: What was checked, with its version.
    benchmark: str = ""


class AdmissionReview(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag="admission-control"):
    message: str = ""
    user: str | None = None
    operation: str | None = None
    object: str | None = None
    images: tuple[str, ...] = ()
    rule: str | None = None


class Deviation(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True, tag="deviation"):
    """Something a policy does not allow. SEMANTICS sections 1 and 5."""

    policy: str
    policy_uid: str | None = None
    #: container, linux-service or cluster; None: the source does not say.
    policy_type: str | None = None
    #: audit or enforce, as the policy was when it was found; None: the source does not say.
    mode: str | None = None
    #: process, ingress, egress or container.
    what: str = "process"
    message: str = ""
    #: Identifies repeats within a policy.
    checksum: str | None = None
    connection: Connection | None = None
    #: The smallest addition that would allow it, in the form of a policy's or ruleset's spec: processPolicy and
    #: networkPolicy, whose nodes that are there already stand as {"policyNode": {"id": ..., "children": [...]}}, or rules,
    #: with "without": the denies of a value that have to go for it.
    addition: dict[str, Any] = {}
    #: Of a ruleset: target -> the patterns that denied it; __DEFAULT_DENY__: none allows it.
    matched: dict[str, tuple[str, ...]] = {}
    #: What is not known, so that it might be allowed after all; "": it is not, for sure. Nothing destructive is done
    #: about one that might be (SEMANTICS section 0, principle 2).
    unproven: str = ""


Details = PlainDetails | SecurityDetails | CveReport | ComplianceReport | AdmissionReview | Deviation
