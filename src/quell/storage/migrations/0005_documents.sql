-- What a document's history is: 0 and '' where it was written before Quell kept it.
ALTER TABLE documents ADD COLUMN source TEXT NOT NULL DEFAULT '';      -- which named source applied it; '': none
ALTER TABLE documents ADD COLUMN created REAL NOT NULL DEFAULT 0;      -- epoch seconds
ALTER TABLE documents ADD COLUMN changed REAL NOT NULL DEFAULT 0;
ALTER TABLE documents ADD COLUMN changed_by TEXT NOT NULL DEFAULT '';  -- as in the audit log: user/ann
