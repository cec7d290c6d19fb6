"""Syslog out: RFC 5424 messages over UDP, TCP and TLS, as text, JSON or CEF. docs/syslog.md; SEMANTICS sections 3 and 9.

A receiver is a reader of the journal (quell.storage.tail) with a position of its own; taking events in costs nothing
more for it. `told` says what there is to tell, `text`, `jsons` and `cef` say it in a form, `envelope` puts it into a message,
`datagrams` and `streams` send, `line` is a receiver's task, `receivers` is all of them.
"""
