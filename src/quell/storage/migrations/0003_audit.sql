-- Every change and every action, chained by hash (quell.storage.audit). What is searched by is taken from the body, so
-- that it cannot differ from it.
CREATE TABLE audit (
    n      INTEGER PRIMARY KEY,       -- from 1, without gaps
    time   INTEGER NOT NULL,          -- microseconds since the epoch
    body   BLOB NOT NULL,             -- AuditEntry, JSON
    hash   BLOB NOT NULL,             -- SHA-256 of the hash before, and of n, time and body (quell.storage.chain)
    text   TEXT GENERATED ALWAYS AS (iif(json_valid(CAST(body AS TEXT)), CAST(body AS TEXT), '{}')) VIRTUAL,
    actor  TEXT GENERATED ALWAYS AS (
               json_extract(text, '$.actor.kind') || coalesce('/' || json_extract(text, '$.actor.name'), '')) VIRTUAL,
    verb   TEXT GENERATED ALWAYS AS (json_extract(text, '$.verb')) VIRTUAL,
    kind   TEXT GENERATED ALWAYS AS (json_extract(text, '$.kind')) VIRTUAL,
    name   TEXT GENERATED ALWAYS AS (json_extract(text, '$.name')) VIRTUAL
) STRICT;
CREATE INDEX audit_actor ON audit (actor);
CREATE INDEX audit_kind ON audit (kind, name);

-- Where the chain ends, signed in the transaction that wrote its last entry.
CREATE TABLE audit_head (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    n          INTEGER NOT NULL,
    hash       BLOB NOT NULL,
    signature  BLOB NOT NULL          -- empty: by a store that was opened without a key
) STRICT;
