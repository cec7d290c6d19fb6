"""What the field's words mean, as data: event names, detectors' rules, criteria, actions and which go together.

SEMANTICS sections 1 and 3. Documents, matching, response, the options endpoint and the reference pages all read these
tables; none has a list of its own.
"""
