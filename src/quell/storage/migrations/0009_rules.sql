-- Where a rule stands among the others, with room between two neighbours; 0 where a document's kind has no order.
-- Until now rules stood in the order of their ids.
ALTER TABLE documents ADD COLUMN position INTEGER NOT NULL DEFAULT 0;
UPDATE documents SET position = id * 16777216 WHERE kind = 'ResponseRule';

-- Names of events that are in no catalogue and that somebody sent: what completion and validation know beside it.
CREATE TABLE names_seen (
    category TEXT NOT NULL,
    name     TEXT NOT NULL,
    kind     TEXT NOT NULL,           -- of a security event; '' otherwise
    source   TEXT NOT NULL,           -- the detector
    seen     REAL NOT NULL,           -- when it was noted, epoch seconds
    PRIMARY KEY (category, name)
) STRICT, WITHOUT ROWID;
