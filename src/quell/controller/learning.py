"""What images and services do while they are watched: fingerprints, kept so that policies can be made of them.

On the event loop's thread only. What is new is written by and by; what does not run any more is forgotten after a while,
and when there are too many the one not seen for longest goes first. SEMANTICS section 5.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Sequence
from fnmatch import fnmatchcase

import msgspec
import structlog

from quell.clock import Clock
from quell.controller.guardian_settings import GuardianSettings
from quell.errors import StoreError
from quell.guardian.fingerprint import Fingerprint, Key, Kind, add, key_of
from quell.model.observation import Observation
from quell.setting import read_age
from quell.storage import fingerprints as stored
from quell.storage.store import Store

#: Processes of all fingerprints together, as many times the number of fingerprints: most have some dozens.
PROCESSES = 100
#: Fingerprints written in one go; some milliseconds' work.
SAVED = 20
#: Seconds after which it is written that one is still seen, where nothing else of it changed.
SEEN_AGAIN = 3600.0

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Fingerprint).decode

_log = structlog.get_logger(__name__)


class Learning:
    def __init__(self, store: Store, settings: GuardianSettings, clock: Clock) -> None:
        """StoreError."""
        self._store = store
        self._clock = clock
        self._is_on = settings.observe == "on"
        self._most = settings.fingerprints
        self._age = read_age(settings.fingerprints_age)
        #: The one not seen for longest first.
        self._known: OrderedDict[Key, Fingerprint] = OrderedDict()
        self._size = 0
        #: When each was written last, by when it was seen then.
        self._written: dict[Key, float] = {}
        self._changed: dict[Key, None] = {}
        self._gone: dict[Key, None] = {}
        for kept in store.read(stored.all_of):
            key = Key(Kind(kept.kind), kept.name)
            try:
                fingerprint = _decode(kept.body)
            except msgspec.ValidationError as error:
                _log.warning("what was seen of a workload cannot be read any more", name=kept.name, error=str(error))
                self._gone[key] = None
                continue
            self._known[key] = fingerprint
            self._size += fingerprint.size
            self._written[key] = kept.last

    def take(self, observation: Observation) -> None:
        """observation: with all that is known of its workload."""
        if not self._is_on:
            return
        key = key_of(observation.subject)
        if key is None:
            return
        fingerprint = self._known.get(key)
        if fingerprint is None:
            fingerprint = self._known[key] = Fingerprint(kind=key.kind, name=key.name)
            self._gone.pop(key, None)
        else:
            self._known.move_to_end(key)
        before = fingerprint.size
        is_new = add(fingerprint, observation)
        self._size += fingerprint.size - before
        if is_new or fingerprint.last - self._written.get(key, 0.0) > SEEN_AGAIN:
            self._changed[key] = None
        while len(self._known) > self._most or (self._size > self._most * PROCESSES and len(self._known) > 1):
            self._drop(next(iter(self._known)))

    def all(self) -> Sequence[Fingerprint]:
        """By kind and name. To be read only, and at once: they go on changing."""
        return [fingerprint for key, fingerprint in sorted(self._known.items()) if fingerprint.count]

    def one(self, key: Key) -> Fingerprint | None:
        return self._known.get(key)

    def named(self, kind: Kind, word: str) -> Sequence[Fingerprint]:
        """The one of this name, else those that the word is a glob for."""
        exact = self._known.get(Key(kind, word))
        if exact is not None:
            return [exact]
        return [each for each in self.all() if each.kind is kind and fnmatchcase(each.name, word)]

    def tick(self) -> None:
        """About once a second: forget what is too old, write what is new."""
        now = self._clock()
        while self._known and self._age is not None:
            key, oldest = next(iter(self._known.items()))
            if oldest.last >= now - self._age:
                break
            self._drop(key)
        self._save(SAVED)

    def close(self) -> None:
        """Write the rest."""
        while self._save(SAVED):
            pass

    def _drop(self, key: Key) -> None:
        self._size -= self._known.pop(key).size
        self._changed.pop(key, None)
        self._written.pop(key, None)
        self._gone[key] = None

    def _save(self, limit: int) -> bool:
        """Queue up to so many for the disk. False: there was nothing."""
        if not self._changed and not self._gone:
            return False
        keys = list(self._changed)[:limit]
        gone, self._gone = list(self._gone), {}
        kept = []
        for key in keys:
            del self._changed[key]
            each = self._known[key]
            self._written[key] = each.last
            kept.append(
                stored.Kept(kind=key.kind.value, name=key.name, first=each.first, last=each.last, body=_encode(each))
            )

        def write(connection: sqlite3.Connection) -> None:
            stored.delete(connection, [(key.kind.value, key.name) for key in gone])
            stored.put(connection, kept)

        def done(error: StoreError | None) -> None:
            if error is not None:
                _log.error("what was seen of workloads could not be saved yet", error=str(error))
                self._changed.update((key, None) for key in keys if key in self._known)
                self._gone.update((key, None) for key in gone if key not in self._known)

        self._store.write(write, done)
        return True
