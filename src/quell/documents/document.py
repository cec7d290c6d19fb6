"""The outside that all documents share: metadata and spec."""

from __future__ import annotations

from msgspec import Struct

from quell.documents.reader import Fields, Value
from quell.model.rule import Source


class Document(Struct, frozen=True):
    """One document whose apiVersion and kind are known."""

    metadata: Fields
    #: Where metadata, and with it a missing name, stands.
    metadata_value: Value
    spec: Value
    #: From another system: its metadata is not ours to judge, and its limits are its own.
    foreign: bool
    source: Source

    def name(self, other: Value | None = None) -> str:
        """metadata.name, or the field of the spec that may stand for it; a problem if there is none."""
        written = self.metadata.get("name", other)
        if written is None:
            self.metadata_value.problem('missing field "name"', expected="name")
            return ""
        name = written.name()
        if other is not None and other is not written and other.name() != name:
            other.problem(f'the name is "{name}" in metadata: leave it out here', expected=name, got=other.name())
        return name
