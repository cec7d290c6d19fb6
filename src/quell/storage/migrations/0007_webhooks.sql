-- Whose an attempt and a dead letter are, and how the attempt ended: what lists are filtered by. An id ends with the name
-- of its endpoint, after the last slash.
ALTER TABLE deliveries ADD COLUMN endpoint TEXT NOT NULL DEFAULT '';
ALTER TABLE deliveries ADD COLUMN delivered INTEGER NOT NULL DEFAULT 0;
-- In what was packed before, delivered is written only where it is true (msgpack: the name, and c3).
UPDATE deliveries SET endpoint = replace(id, rtrim(id, replace(id, '/', '')), ''),
                      delivered = instr(body, x'a964656c697665726564c3') > 0;
CREATE INDEX deliveries_endpoint ON deliveries (endpoint, delivered, n);

ALTER TABLE dead_letters ADD COLUMN endpoint TEXT NOT NULL DEFAULT '';
UPDATE dead_letters SET endpoint = replace(id, rtrim(id, replace(id, '/', '')), '');
CREATE INDEX dead_letters_endpoint ON dead_letters (endpoint, n);
