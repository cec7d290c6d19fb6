"""What must survive: the journal of events and decisions, the outbox, and the few things people set. SQLite.

`quell.storage.store.Store` is the whole; each other module holds one noun. Modules such as documents, agents and tokens
are functions over a connection, used through `store.submit(lambda connection: ...)` and `store.read(lambda connection: ...)`.
"""
