-- What was gathered before kills, by command. received: of the command's event, with which it is forgotten.
CREATE TABLE evidence (
    n         INTEGER PRIMARY KEY,
    id        TEXT NOT NULL UNIQUE,
    event     TEXT NOT NULL,
    agent     TEXT NOT NULL,
    time      REAL NOT NULL,
    received  REAL NOT NULL,
    size      INTEGER NOT NULL,
    body      BLOB NOT NULL            -- quell.model.evidence.Gathered, JSON in zstd
) STRICT;
CREATE INDEX evidence_event ON evidence (event);

-- Copies of executables, each once whatever it was killed under, in pieces as they came; and which evidence is of which.
CREATE TABLE executables (
    sha256  TEXT PRIMARY KEY,
    size    INTEGER NOT NULL,
    whole   INTEGER NOT NULL           -- 1: all pieces came, and have this hash
) STRICT, WITHOUT ROWID;
CREATE TABLE executable_pieces (
    sha256  TEXT NOT NULL REFERENCES executables (sha256) ON DELETE CASCADE,
    offset  INTEGER NOT NULL,
    data    BLOB NOT NULL,
    PRIMARY KEY (sha256, offset)
) STRICT;
CREATE TABLE evidence_executables (
    evidence  INTEGER NOT NULL REFERENCES evidence (n) ON DELETE CASCADE,
    sha256    TEXT NOT NULL,
    PRIMARY KEY (evidence, sha256)
) STRICT, WITHOUT ROWID;
CREATE INDEX evidence_executables_sha256 ON evidence_executables (sha256);
