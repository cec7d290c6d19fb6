-- Answers to requests that came with an Idempotency-Key (quell.storage.idempotency).
CREATE TABLE idempotency (
    caller   TEXT NOT NULL,
    key      TEXT NOT NULL,
    time     REAL NOT NULL,
    request  BLOB NOT NULL,          -- SHA-256 of what was asked
    answer   BLOB NOT NULL,          -- status, headers and body, msgpack
    PRIMARY KEY (caller, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_time ON idempotency (time);
