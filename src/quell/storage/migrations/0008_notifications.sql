-- What each row of the journal holds, in brief, so that a search can pass it by (quell.storage.summary). NULL: nobody
-- knows, as of the rows that were written before. It is a table of its own, since SQLite walks through a row's body to
-- reach what stands behind it. The last row's number is kept when the row is gone: numbers never come twice.
CREATE TABLE journal_summary (
    seq           INTEGER PRIMARY KEY,
    received_min  REAL NOT NULL,
    received_max  REAL NOT NULL,
    events        INTEGER NOT NULL,
    decided       INTEGER NOT NULL,
    levels        INTEGER,           -- bits of the levels of its events
    categories    INTEGER,           -- bits of their categories
    shown         INTEGER,           -- bits of the categories of those that are not suppressed
    traits        TEXT,              -- JSON: [source, category, level, name, catalogue name, shown] of each kind of event
    rules         TEXT               -- JSON: references and names of the rules that matched
) STRICT;
INSERT INTO journal_summary (seq, received_min, received_max, events, decided)
    SELECT seq, received_min, received_max, events, decided FROM journal;
