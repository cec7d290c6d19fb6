-- What flags are searched by, how often each would have been raised again, and what people said of it.
ALTER TABLE flags ADD COLUMN red INTEGER NOT NULL DEFAULT 0;        -- 1: red, 0: ops
ALTER TABLE flags ADD COLUMN severity INTEGER NOT NULL DEFAULT 0;   -- 4: critical, down to 0: info
ALTER TABLE flags ADD COLUMN repeats INTEGER NOT NULL DEFAULT 0;
ALTER TABLE flags ADD COLUMN last REAL;                             -- when it would have been raised again
ALTER TABLE flags ADD COLUMN acknowledged BLOB;                     -- msgpack: by whom, when, note; NULL: nobody did
ALTER TABLE flags ADD COLUMN trace TEXT;                            -- the trace that it is in
CREATE INDEX flags_trace ON flags (trace) WHERE trace IS NOT NULL;
-- In what was packed before, these two are written as msgpack writes a name and a short text.
UPDATE flags SET
    red = instr(body, x'aa666c61675f636c617373a3726564') > 0,
    severity = CASE
        WHEN instr(body, x'a87365766572697479a8637269746963616c') > 0 THEN 4
        WHEN instr(body, x'a87365766572697479a468696768') > 0 THEN 3
        WHEN instr(body, x'a87365766572697479a66d656469756d') > 0 THEN 2
        WHEN instr(body, x'a87365766572697479a36c6f77') > 0 THEN 1
        ELSE 0
    END;

-- Red flags on one causal chain (quell.response.traces). A trace's body has all that is shown of it.
CREATE TABLE traces (
    n           INTEGER PRIMARY KEY,
    id          TEXT NOT NULL UNIQUE,
    time        REAL NOT NULL,        -- of its last flag
    first       REAL NOT NULL,
    status      TEXT NOT NULL,        -- open, closed, merged
    priority    TEXT NOT NULL,
    score       REAL NOT NULL,
    suppressed  INTEGER NOT NULL,
    body        BLOB NOT NULL         -- msgpack in zstd
) STRICT;
CREATE INDEX traces_open ON traces (id) WHERE status = 'open';

-- The number of the last flag that is in its trace. Traces begin with the flags that come from now on.
CREATE TABLE traces_made (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    flag  INTEGER NOT NULL
) STRICT;
INSERT INTO traces_made (one, flag) SELECT 1, coalesce(max(n), 0) FROM flags;
