-- Events with their decisions, a group of neighbours a row (quell.storage.journal).
CREATE TABLE journal (
    seq           INTEGER PRIMARY KEY,
    first_id      BLOB,              -- the first generated id of the group, 16 bytes; NULL: none is generated
    received_min  REAL NOT NULL,
    received_max  REAL NOT NULL,
    events        INTEGER NOT NULL,
    supplied      INTEGER NOT NULL,  -- events whose ids are in event_ids
    decided       INTEGER NOT NULL,  -- events with a decision that is not empty
    codec         INTEGER NOT NULL,  -- 0: msgpack, 1: msgpack in zstd
    own           BLOB NOT NULL,     -- the generated ids, 16 bytes each, rising
    ids           BLOB NOT NULL,     -- the other ids, msgpack: place in the group (from 0) -> id
    body          BLOB NOT NULL
) STRICT;
CREATE INDEX journal_first ON journal (first_id) WHERE first_id IS NOT NULL;
CREATE INDEX journal_decided ON journal (seq) WHERE decided > 0;

-- Ids that came with the event, for exact look-up and so that the same id is decided once.
CREATE TABLE event_ids (
    id   TEXT PRIMARY KEY,
    seq  INTEGER NOT NULL,
    n    INTEGER NOT NULL            -- place in the group, from 0
) STRICT, WITHOUT ROWID;

-- What is still to be sent.
CREATE TABLE outbox (
    n        INTEGER PRIMARY KEY,
    id       TEXT NOT NULL UNIQUE,
    channel  TEXT NOT NULL,
    body     BLOB NOT NULL
) STRICT;
CREATE INDEX outbox_channel ON outbox (channel, n);

CREATE TABLE outcomes (
    n       INTEGER PRIMARY KEY,
    id      TEXT NOT NULL,
    status  TEXT NOT NULL,
    time    REAL NOT NULL,
    body    BLOB NOT NULL,
    UNIQUE (id, status)
) STRICT;

CREATE TABLE flags (
    n     INTEGER PRIMARY KEY,
    id    TEXT NOT NULL UNIQUE,
    time  REAL NOT NULL,
    body  BLOB NOT NULL
) STRICT;

-- The engine's state at some place of the journal, and the changes after it, in order.
CREATE TABLE snapshot (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    time  REAL NOT NULL,
    body  BLOB NOT NULL
) STRICT;
CREATE TABLE changes (
    n     INTEGER PRIMARY KEY,
    body  BLOB NOT NULL
) STRICT;

CREATE TABLE documents (
    kind      TEXT NOT NULL,
    name      TEXT NOT NULL,
    id        INTEGER NOT NULL,
    revision  INTEGER NOT NULL,
    body      BLOB NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE agents (
    id    TEXT PRIMARY KEY,
    name  TEXT NOT NULL,
    body  BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Random tokens are kept as their SHA-256 only.
CREATE TABLE tokens (
    hash       BLOB PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    role       TEXT NOT NULL,
    created    REAL NOT NULL,
    expires    REAL,
    last_used  REAL
) STRICT, WITHOUT ROWID;

CREATE TABLE join_tokens (
    hash     BLOB PRIMARY KEY,
    name     TEXT NOT NULL,
    created  REAL NOT NULL,
    expires  REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE rejects (
    n     INTEGER PRIMARY KEY,
    id    TEXT NOT NULL UNIQUE,
    time  REAL NOT NULL,
    body  BLOB NOT NULL
) STRICT;

-- Attempts to deliver a webhook.
CREATE TABLE deliveries (
    n     INTEGER PRIMARY KEY,
    id    TEXT NOT NULL,
    time  REAL NOT NULL,
    body  BLOB NOT NULL
) STRICT;
CREATE INDEX deliveries_id ON deliveries (id);

CREATE TABLE dead_letters (
    n     INTEGER PRIMARY KEY,
    id    TEXT NOT NULL UNIQUE,
    time  REAL NOT NULL,
    body  BLOB NOT NULL
) STRICT;

CREATE TABLE key_values (
    key    TEXT PRIMARY KEY,
    value  BLOB NOT NULL
) STRICT, WITHOUT ROWID;
