"""What runs where, joined from what agents, Kubernetes and events say. Pure: no clock, no I/O; the controller feeds it.

statements keeps each source's word, join makes one workload of several words, inventory is the whole, membership says
which groups a workload is in, enrichment fills in what an event does not say.
"""
