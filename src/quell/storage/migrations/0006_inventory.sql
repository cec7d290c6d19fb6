-- What each source said and has not taken back (quell.inventory).
CREATE TABLE sightings (
    source  TEXT NOT NULL,
    kind    TEXT NOT NULL,
    key     TEXT NOT NULL,
    body    BLOB NOT NULL,           -- quell.model.sighting, msgpack
    PRIMARY KEY (source, kind, key)
) STRICT, WITHOUT ROWID;

-- Learned groups without a member, and since when.
CREATE TABLE learned_groups (
    name  TEXT PRIMARY KEY,
    since REAL NOT NULL              -- when the last member went, epoch seconds
) STRICT, WITHOUT ROWID;
