-- Users that a provider of logins vouches for. Their password is "", which no password matches.
ALTER TABLE users ADD COLUMN source TEXT NOT NULL DEFAULT 'local';   -- local, oidc
ALTER TABLE users ADD COLUMN issuer TEXT;                            -- the provider
ALTER TABLE users ADD COLUMN subject TEXT;                           -- what it knows the user by, for ever
CREATE UNIQUE INDEX users_subject ON users (issuer, subject) WHERE subject IS NOT NULL;
