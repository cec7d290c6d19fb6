"""The rules that Quell comes with: six, disabled, one a category. SEMANTICS section 3, "Default rules"."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from quell.model.action import MakeRedFlag, Quarantine, SendWebhook, Severity
from quell.model.event import Category
from quell.model.rule import Criterion, Rule, Source


def _rule(number: int, category: Category, action: Quarantine | SendWebhook | MakeRedFlag, *criteria: str) -> Rule:
    written = (criterion.partition(":") for criterion in criteria)
    return Rule(
        id=number,
        name=f"default-{category}",
        category=category,
        criteria=tuple(Criterion(type=type_, values=(value,)) for type_, _, value in written),
        actions=(action,),
        disabled=True,
    )


#: As they are shipped, by id.
DEFAULTS: Mapping[int, Rule] = MappingProxyType(
    {
        rule.id: rule
        for rule in (
            _rule(1, Category.EVENT, SendWebhook(), "name:Container.Quarantined"),
            _rule(2, Category.SECURITY_EVENT, SendWebhook(), "level:Critical"),
            _rule(3, Category.CVE_REPORT, Quarantine(), "cve-high:10"),
            _rule(4, Category.COMPLIANCE, SendWebhook(), "name:D.5.4"),
            _rule(5, Category.ADMISSION_CONTROL, SendWebhook(), "name:Admission.Control.Denied"),
            _rule(6, Category.DEVIATION, MakeRedFlag(severity=Severity.HIGH)),
        )
    }
)


def is_default(rule: Rule) -> bool:
    """Whether it is one of them, edited or not."""
    shipped = DEFAULTS.get(rule.id)
    return shipped is not None and shipped.name == rule.name


def is_edited(rule: Rule) -> bool:
    """Whether a default rule says something else than what is shipped; enabling it is no edit."""
    plain = msgspec.structs.replace(rule, disabled=True, source=Source())
    return is_default(rule) and plain != DEFAULTS[rule.id]
