-- People who may log in.
CREATE TABLE users (
    name              TEXT PRIMARY KEY,              -- in lower case
    role              TEXT NOT NULL,
    password          TEXT NOT NULL,                 -- argon2id, in its PHC form
    created           REAL NOT NULL,
    password_changed  REAL NOT NULL,
    last_login        REAL,
    disabled          INTEGER NOT NULL DEFAULT 0,
    version           INTEGER NOT NULL DEFAULT 1,    -- of what an admin sees and changes
    failures          INTEGER NOT NULL DEFAULT 0,    -- logins that failed since failing_since
    failing_since     REAL,
    locked_until      REAL
) STRICT, WITHOUT ROWID;

-- Logins that last: a browser's, or one of the command line.
CREATE TABLE sessions (
    hash       BLOB PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,                 -- what it is called in lists
    user       TEXT REFERENCES users (name) ON DELETE CASCADE,
    token      TEXT,                                 -- instead of a user: whose login link it was
    cookie     INTEGER NOT NULL,                     -- 1: a browser's; 0: shown as a bearer's token
    created    REAL NOT NULL,
    last_used  REAL NOT NULL,
    address    TEXT NOT NULL,
    program    TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_user ON sessions (user) WHERE user IS NOT NULL;
CREATE INDEX sessions_token ON sessions (token) WHERE token IS NOT NULL;

-- Who made a token, what of its role it may do, and what it may send events about.
ALTER TABLE tokens ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE tokens ADD COLUMN permissions TEXT;      -- a JSON list; NULL: all of its role
ALTER TABLE tokens ADD COLUMN binding TEXT;          -- a JSON object; NULL: it is not bound
ALTER TABLE tokens ADD COLUMN old_hash BLOB;         -- of the secret before the last rotation
ALTER TABLE tokens ADD COLUMN old_until REAL;        -- when that one stops working
CREATE UNIQUE INDEX tokens_old ON tokens (old_hash) WHERE old_hash IS NOT NULL;
