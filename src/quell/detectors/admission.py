"""What an audit event says of admission: who refused the request, and what it was let through in spite of.

The texts and annotation keys are kube-apiserver's own. Everything here is about requests that authorization let pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
from msgspec import Struct

#: What authorization decided: allow or forbid.
DECISION = "authorization.k8s.io/decision"
_POD_SECURITY = "pod-security.kubernetes.io/audit-violations"
_POLICY_FAILURE = "validation.policy.admission.k8s.io/validation_failure"
_FAILED_OPEN = ("failed-open.validating.webhook.admission.k8s.io/", "failed-open.mutation.webhook.admission.k8s.io/")

_WEBHOOK = re.compile(r'admission webhook "([^"]{1,253})" denied the request')
_CALLING = re.compile(r'(?:Internal error occurred: )?failed calling (?:admission )?webhook "([^"]{1,253})"')
_POLICY = re.compile(r"(?:^|: )ValidatingAdmissionPolicy '([^']{1,253})'(?: with binding '[^']*')? denied request")
_STANDARD = re.compile(r'(?:^|is forbidden: )violates PodSecurity "([^"]{1,100})"')
_VIOLATED_STANDARD = re.compile(r'violate PodSecurity "([^"]{1,100})"')
#: What built-in plug-ins say after `… is forbidden: `, and what they are called.
_BUILT_IN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"exceeded quota: |failed quota: |insufficient quota to match", "ResourceQuota"),
        (r"(?:minimum|maximum) \S+ (?:usage|storage|amount) per \w+ is|limit to request ratio", "LimitRanger"),
        (r"PodSecurityPolicy: unable to admit|unable to validate against any pod security policy", "PodSecurityPolicy"),
        (r"unable to validate against any security context constraint", "SecurityContextConstraint"),
        (r"image policy webhook backend denied one or more images", "ImagePolicyWebhook"),
        (r"unable to create new content in namespace \S+ because it is being terminated", "NamespaceLifecycle"),
        (r"error looking up service account", "ServiceAccount"),
        (r"no PriorityClass with name|the integer value of priority", "Priority"),
        (r'node "[^"]*" is not allowed to|node "[^"]*" can only|is not allowed to modify', "NodeRestriction"),
        (r"[Uu]se of external IPs is denied by admission control", "DenyServiceExternalIPs"),
        (r"cannot set blockOwnerDeletion", "OwnerReferencesPermissionEnforcement"),
    )
)
_FORBIDDEN = " is forbidden: "
#: Refusals after authorization that are still a question of rights, not of admission: RBAC's guard against escalation,
#: impersonation, and authorization itself where the event does not carry its decision.
_OF_RIGHTS = re.compile(r'attempting to grant|cannot impersonate|is forbidden: User "')


class Refused(NamedTuple):
    """Admission said no. rule: the webhook, policy, standard or plug-in; None where the message does not name it."""

    rule: str | None


class Violation(NamedTuple):
    rules: tuple[str, ...]
    message: str


def refused_by(code: int, message: str, annotations: Mapping[str, str]) -> Refused | None:
    """Who of admission refused a failed request; None where it failed for another reason."""
    if annotations.get(DECISION) == "forbid" or code == 401:
        return None
    for pattern in (_WEBHOOK, _CALLING):
        named = pattern.match(message)
        if named is not None:
            return Refused(named[1])
    policy = _POLICY.search(message)
    if policy is not None:
        return Refused(policy[1])
    standard = _STANDARD.search(message)
    if standard is not None:
        return Refused(f"PodSecurity {standard[1]}")
    if code != 403 or _FORBIDDEN not in message or _OF_RIGHTS.search(message) is not None:
        return None
    told = message.partition(_FORBIDDEN)[2]
    plugin = next((name for pattern, name in _BUILT_IN if pattern.search(told)), None)
    # Authorization allowed it and it was forbidden all the same: that is admission, whichever plug-in it was.
    return Refused(plugin) if plugin is not None or annotations.get(DECISION) == "allow" else None


class _Failure(Struct):
    message: str = ""
    policy: str = ""


_failures = msgspec.json.Decoder(list[_Failure])


def violated(annotations: Mapping[str, str]) -> Violation | None:
    """What a request was let through in spite of, because the rule only watches or its webhook could not be asked."""
    found = list(_violations(annotations))
    if not found:
        return None
    return Violation(tuple(dict.fromkeys(rule for rule, _ in found)), "; ".join(text for _, text in found))


def _violations(annotations: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key, value in annotations.items():
        if key == _POD_SECURITY:
            standard = _VIOLATED_STANDARD.search(value)
            yield "PodSecurity" if standard is None else f"PodSecurity {standard[1]}", value
        elif key == _POLICY_FAILURE:
            try:
                failures = _failures.decode(value)
            except (msgspec.DecodeError, RecursionError):
                failures = [_Failure(message=value)]
            for each in failures:
                rule = each.policy or "ValidatingAdmissionPolicy"
                yield rule, f"{rule}: {each.message}" if each.message else rule
        elif key.startswith(_FAILED_OPEN):
            yield value, f'webhook "{value}" could not be asked and lets through'
