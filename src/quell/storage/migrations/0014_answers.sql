-- What events that are alike were answered with, each once; rows of the journal name it by its number
-- (quell.storage.answers).
CREATE TABLE answers (
    number  INTEGER PRIMARY KEY,
    body    BLOB NOT NULL            -- msgpack
) STRICT;
-- No number that the row names is lower. 0: it names none.
ALTER TABLE journal ADD COLUMN answers_from INTEGER NOT NULL DEFAULT 0;
-- What it said stands in journal_summary, and every commit had to write a page of it.
DROP INDEX journal_decided;
