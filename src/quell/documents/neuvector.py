"""NeuVector's custom resource for a response rule, read with the meaning that it has there.

Where a bare count with a fix means "at least" there and "more than" here (SEMANTICS section 3), it is stored as >=N.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from quell.documents import rule
from quell.documents.document import Document
from quell.model.rule import Rule

_REQUIRED = ("policy_name", "event", "actions")
_OPTIONAL = ("group", "conditions", "comment", "disable", "webhooks")


class PolicyName(StrEnum):
    """Which of its two sets a rule belongs to."""

    DEFAULT = "default"
    FEDERAL = "fed"


def read(document: Document) -> Rule | None:
    outer = document.spec.fields(("rule",))
    if "rule" not in outer:
        return None
    fields = outer["rule"].fields(_REQUIRED, _OPTIONAL)
    federal = fields.choice("policy_name", PolicyName, PolicyName.DEFAULT) is PolicyName.FEDERAL
    read_rule = rule.read_fields(document, outer["rule"], fields, document.name(), counts_at_least=True)
    if federal and read_rule is not None:
        return msgspec.structs.replace(read_rule, cfg_type=rule.CfgType.FEDERAL.value)
    return read_rule
