"""What this machine lacks for a controller or an agent, and why it matters: quell.doctor.examine does all the looking.

Nothing here starts, changes or keeps anything: what has to be tried to be known is tried on something of its own, which
is gone when the answer is there.
"""
