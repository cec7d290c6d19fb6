"""Events that the journal keeps, as they were decided."""

from __future__ import annotations

import msgspec

from quell.detectors import DETECTORS
from quell.inventory.enrichment import merged
from quell.model.event import Event
from quell.storage.records import Stored


def as_decided(stored: Stored) -> Event:
    """The detector's event with what the inventory had added before the decision."""
    event = DETECTORS[stored.source].decode(stored.raw, id=stored.id, received=stored.received)
    added = stored.decision.added
    return event if added is None else msgspec.structs.replace(event, subject=merged(event.subject, added))
