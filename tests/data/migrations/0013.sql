-- A user of a provider, without a password.
INSERT INTO users (name, role, password, created, password_changed, last_login, disabled, version, failures, failing_since, locked_until, source, issuer, subject) VALUES ('eve@shop.example', 'viewer', '', 1795375000.25, 0.0, 1795375000.25, 0, 1, 0, NULL, NULL, 'oidc', 'https://login.shop.example', '248289761001');
