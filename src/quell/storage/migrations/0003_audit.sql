-- Every change and every action, chained by hash (quell.storage.audit).
CREATE TABLE audit (
    n     INTEGER PRIMARY KEY,       -- from 1, without gaps
    time  REAL NOT NULL,
    body  BLOB NOT NULL,             -- AuditEntry, JSON
    hash  BLOB NOT NULL              -- SHA-256 of the entry before, and of n, time and body
) STRICT;
