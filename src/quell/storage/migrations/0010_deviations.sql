-- What policies do not allow, once a policy and checksum, and how often it came (quell.controller.deviations).
CREATE TABLE deviations (
    n          INTEGER PRIMARY KEY AUTOINCREMENT,
    policy     TEXT NOT NULL,         -- its name, or what the source calls it where none such is known
    checksum   TEXT NOT NULL,
    what       TEXT NOT NULL,         -- process, ingress, egress or container
    status     TEXT NOT NULL,         -- open, merged or irrelevant
    first      REAL NOT NULL,         -- epoch seconds
    last       REAL NOT NULL,
    count      INTEGER NOT NULL,
    events     INTEGER NOT NULL,      -- how many of them became events
    omitted    INTEGER NOT NULL,      -- how many more would have, had there not been so many
    event_id   TEXT NOT NULL,         -- of the last that became one
    event_time REAL NOT NULL,
    instances  TEXT NOT NULL,         -- JSON: digests of the last processes and containers it came from
    subject    BLOB NOT NULL,         -- of the last one: quell.model.subject.Subject, msgpack
    body       BLOB NOT NULL,         -- quell.storage.deviations.Told, msgpack
    UNIQUE (policy, checksum)
) STRICT;
CREATE INDEX deviations_last ON deviations (last);

-- What was seen of images and services at work (quell.controller.learning).
CREATE TABLE fingerprints (
    kind  TEXT NOT NULL,              -- image or service
    name  TEXT NOT NULL,
    first REAL NOT NULL,              -- epoch seconds
    last  REAL NOT NULL,
    body  BLOB NOT NULL,              -- quell.guardian's, msgpack
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
