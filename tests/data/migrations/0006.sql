-- A node that an agent told of, and a learned group without a member.
INSERT INTO sightings (source, kind, key, body) VALUES ('agent/agent-1', 'node', 'node-1', x'83a474797065a46e6f6465a46e616d65a66e6f64652d31aa6d616368696e655f6964d9206161616161616161616161616161616161616161616161616161616161616161');
INSERT INTO learned_groups (name, since) VALUES ('learned/shop', 1795375000.25);
